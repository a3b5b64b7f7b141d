package signin

import (
	"context"
	"errors"
	"net/http"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authn"
	"github.com/sallyport/sallyport/internal/measure"
	"github.com/sallyport/sallyport/session"
)

type counts struct{ signIns, codes measure.Counts }

// outcome is what a sign-in came to, as it is counted. Who is refused is not told
// apart by why: that is in the audit log.
func outcome(err error) string {
	if err == nil {
		return "success"
	}
	switch err.(type) {
	case *MFARequired:
		return "second factor due"
	case *authn.Refused:
		return "refused"
	case *WrongCode:
		return "wrong code"
	}
	switch e, ok := errors.AsType[*sallyport.Error](err); {
	case ok && e.Code == "too_many_attempts":
		return "locked"
	case ok && e.Status == http.StatusTooManyRequests:
		return "limited"
	case ok && e.Status == http.StatusServiceUnavailable:
		return "busy"
	case ok && e.Status < http.StatusInternalServerError, errors.Is(err, session.ErrScope):
		return "refused"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "given up"
	}
	return "failed"
}

// Measure returns how sign-ins went.
func (s *Service) Measure() []measure.Family {
	return []measure.Family{
		{
			Name: "sallyport_sign_ins_total", Help: "Attempts to sign in, by way and result. HTTP Basic counts where a password was looked at, not with each request.",
			Kind: measure.Counter, Labels: []string{"method", "result"}, Points: s.counts.signIns.Points(),
		},
		{
			Name: "sallyport_second_factor_codes_total", Help: "Codes of a second factor, by what they were for (sign-in, or own: set-up, step-up and changes of the factor itself) and result.",
			Kind: measure.Counter, Labels: []string{"purpose", "result"}, Points: s.counts.codes.Points(),
		},
	}
}
