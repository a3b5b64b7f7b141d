package remote

import "time"

// SetTimeout replaces the 5 seconds of each request to the issuer.
func (v *Verifier) SetTimeout(d time.Duration) { v.life.timeout = d }

// Held returns how many tokens and verdicts are in memory.
func (v *Verifier) Held() (tokens, verdicts int) {
	v.verified.mu.Lock()
	defer v.verified.mu.Unlock()
	if v.asks != nil {
		v.asks.mu.Lock()
		defer v.asks.mu.Unlock()
		verdicts = v.asks.verdicts.len()
	}
	return v.verified.known.len(), verdicts
}

// MaxAsking is the bound of questions at once.
const MaxAsking = maxAsking
