package authn

import (
	"context"
	"errors"

	"github.com/sallyport/sallyport/guard/ratelimit"
	"github.com/sallyport/sallyport/internal/reqctx"
)

// Guesses bounds how many credentials that nobody has a client address may send:
// API keys, tokens, cookies and client secrets that are looked for. None of them
// can be guessed; but what looks for them should cost whoever looks, and be seen.
//
// Only what was not known counts. Somebody whose credential was good once and is
// not any more is told so as often as they ask, and a credential that is held in
// memory is not even asked about. Passwords have a budget of their own (package
// lockout).
//
// A nil *Guesses bounds nothing.
type Guesses struct {
	limiter *ratelimit.Limiter
	refused func(context.Context)
}

// NewGuesses returns a bound, none for a nil limiter. refused, if not nil, is told
// of every refusal.
func NewGuesses(l *ratelimit.Limiter, refused func(context.Context)) *Guesses {
	if l == nil {
		return nil
	}
	return &Guesses{l, refused}
}

// Try calls verify, unless too many credentials that came from the same address
// were not known: then it returns a *sallyport.Error, 429 "rate_limited", whether
// this one would be good or not. If verify refuses what nobody has (Refused.Guess),
// that counts. What does not come with a request is not counted.
func (g *Guesses) Try(ctx context.Context, verify func() error) error {
	c := reqctx.From(ctx)
	if g == nil || c == nil {
		return verify()
	}
	key := ratelimit.AddressKey(c.Addr())
	d, err := g.limiter.Peek(ctx, key)
	if err != nil {
		return ratelimit.Unavailable()
	}
	if !d.Allowed {
		if g.refused != nil {
			g.refused(ctx)
		}
		return ratelimit.TooMany(d)
	}
	err = verify()
	if refused, ok := errors.AsType[*Refused](err); ok && refused.Guess {
		if _, terr := g.limiter.Take(ctx, key); terr != nil {
			return ratelimit.Unavailable()
		}
	}
	return err
}
