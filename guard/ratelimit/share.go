package ratelimit

import (
	"context"
	"strconv"

	"github.com/sallyport/sallyport"
)

// MaxShare is the most processes that a limit is divided among.
const MaxShare = 1000

// CheckShare returns what is wrong with a number of processes; 0 counts as 1.
func CheckShare(processes int) error {
	if processes >= 0 && processes <= MaxShare {
		return nil
	}
	return sallyport.Mistake("Share", strconv.Itoa(processes), "it is not from 1 to "+strconv.Itoa(MaxShare), "Give the number of processes that count for themselves, or leave it out for one.")
}

// Share returns a store for one of several processes that each count for
// themselves: it lets through this process' part of every rate, rounded up and at
// least one, so that all together let through the whole if requests are spread
// evenly over them. What is asked for at once counts as no more than the part. The
// error is CheckShare's.
func Share(s Store, processes int) (Store, error) {
	if err := CheckShare(processes); err != nil {
		return nil, err
	}
	if processes <= 1 {
		return s, nil
	}
	return share{s, processes}, nil
}

type share struct {
	store Store
	of    int
}

// Take implements Store. The decision names the rate as it was asked for: what a
// caller is told of the limit stays the same.
func (s share) Take(ctx context.Context, key string, n int, rates ...Rate) (Decision, error) {
	if err := CheckTake(n, rates); err != nil {
		return Decision{}, err
	}
	parts := make([]Rate, len(rates))
	for i, r := range rates {
		parts[i] = r.part(s.of)
		n = min(n, parts[i].burst())
	}
	d, err := s.store.Take(ctx, key, n, parts...)
	for i, r := range parts {
		if err == nil && d.Rate == r {
			d.Rate = rates[i]
			break
		}
	}
	return d, err
}

// part is one of n parts of a rate that is valid, and is valid, too: rounding may
// not make its burst take longer to refill than it can.
func (r Rate) part(n int) Rate {
	up := func(v int) int { return (v + n - 1) / n }
	p := Rate{Count: up(r.Count), Per: r.Per}
	if r.Burst > 0 {
		p.Burst = min(up(r.Burst), int(int64(p.Count)*int64(MaxRefill/r.Per)))
	}
	return p
}
