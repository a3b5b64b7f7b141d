package ratelimit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Bounds of a Rate. Within them every decision is exact integer arithmetic, in
// Go's int64 as well as in the doubles of a script in Redis.
const (
	MaxCount  = 1_000_000           // also of Burst
	MinPer    = time.Second         // Per is a whole number of seconds
	MaxPer    = 30 * 24 * time.Hour // thirty days
	MaxRefill = 366 * 24 * time.Hour

	// MaxRates is how many rates one key may have.
	MaxRates = 8
)

// Rate is how many requests may pass in how long.
//
// After a rest Burst requests pass at once, and then one each Per/Count. So in
// any span of time d at most Burst + d·Count/Per pass, wherever it begins: there
// is no window whose edge would let twice as many through at once.
type Rate struct {
	Count int           // 1 to MaxCount
	Per   time.Duration // whole seconds, MinPer to MaxPer
	// Burst is how many pass at once after a rest: 1 to MaxCount; 0 is Count. To
	// refill it, Burst × Per / Count, takes at most MaxRefill.
	Burst int
}

// RateError is why a text is no rate, or why a Rate cannot be used.
type RateError struct {
	Value  string // the text, or the rate in words; at most 64 bytes of it
	Reason string
	Fix    string
}

// Error says value, reason and fix.
func (e *RateError) Error() string { return fmt.Sprintf("rate %q: %s. %s", e.Value, e.Reason, e.Fix) }

const fixForm = "Write it as COUNT/PERIOD, such as 5/minute, 10/30s or 100/hour;burst=20."

// units in the order in which String tries them; names[0] is what it writes
// behind a number, names[1] what it writes alone.
var units = []struct {
	per   time.Duration
	names []string
}{
	{24 * time.Hour, []string{"d", "day", "days"}},
	{time.Hour, []string{"h", "hour", "hours", "hr", "hrs"}},
	{time.Minute, []string{"m", "minute", "minutes", "min", "mins"}},
	{time.Second, []string{"s", "second", "seconds", "sec", "secs"}},
}

// Parse reads a rate:
//
//	5/minute   100/hour;burst=20   10/30s   1000/day   5 per minute
//
// The period is a unit with a whole number before it or none: s, sec, second, m,
// min, minute, h, hr, hour, d, day, and their plurals, in any case of ASCII
// letters. Spaces may stand between the parts. Numbers are decimal digits
// without a leading zero. The error is a *RateError.
func Parse(text string) (Rate, error) {
	bad := func(reason, fix string) (Rate, error) {
		return Rate{}, &RateError{shorten(text), reason, fix}
	}
	rest := strings.TrimLeft(text, " ")
	count, rest, ok := number(rest)
	if !ok {
		return bad("it does not begin with a count from 1 to "+strconv.Itoa(MaxCount), fixForm)
	}
	rest = strings.TrimLeft(rest, " ")
	if after, cut := strings.CutPrefix(rest, "/"); cut {
		rest = after
	} else if after, cut := cutWord(rest, "per"); cut {
		rest = after
	} else {
		return bad("behind the count there is neither “/” nor “per”", fixForm)
	}
	rest = strings.TrimLeft(rest, " ")
	multiple := 1
	if rest != "" && '0' <= rest[0] && rest[0] <= '9' {
		if multiple, rest, ok = number(rest); !ok {
			return bad("the number in the period is not valid", "Write it in digits, without a leading zero: 30s, 15m, 12h, 2d.")
		}
		rest = strings.TrimLeft(rest, " ")
	}
	word := rest[:letters(rest)]
	rest = strings.TrimLeft(rest[len(word):], " ")
	unit, ok := unitOf(word)
	if !ok {
		return bad("the period has no unit that is known", "Use second, minute, hour or day, or s, m, h or d, with a number before it if need be: 30s.")
	}
	if multiple > int(MaxPer/unit) {
		return bad("the period is longer than "+days(MaxPer), "Use a shorter one, and a smaller count with it.")
	}
	r := Rate{Count: count, Per: time.Duration(multiple) * unit}
	if after, cut := strings.CutPrefix(rest, ";"); cut {
		after, cut = cutWord(strings.TrimLeft(after, " "), "burst")
		after, eq := strings.CutPrefix(strings.TrimLeft(after, " "), "=")
		if !cut || !eq {
			return bad("behind “;” stands something else than burst=N", "Write 100/hour;burst=20. Between several rates stands a comma: 5/minute, 100/hour.")
		}
		if r.Burst, rest, ok = number(strings.TrimLeft(after, " ")); !ok {
			return bad("the burst is not a number from 1 to "+strconv.Itoa(MaxCount), "Write 100/hour;burst=20.")
		}
		rest = strings.TrimLeft(rest, " ")
	}
	switch {
	case rest == "":
	case rest[0] == ',':
		return bad("it is more than one rate", "Name one only here.")
	case rest[0] >= '0' && rest[0] <= '9':
		return bad("the period has more than one unit", "Write it in one: 90m for an hour and a half.")
	default:
		return bad("something stands behind the rate", fixForm)
	}
	if err := r.Validate(); err != nil {
		return Rate{}, err
	}
	return r, nil
}

// ParseAll reads one rate or several with commas between them: “5/minute,
// 100/hour”. All their mistakes are reported at once, as *RateError joined.
// There are at most MaxRates, each with another period: of two with the same
// period one would say nothing, or hide a mistake.
func ParseAll(text string) ([]Rate, error) {
	var rates []Rate
	var errs []error
	for part := range strings.SplitSeq(text, ",") {
		r, err := Parse(part)
		if err != nil {
			errs = append(errs, err)
			if len(errs) > MaxRates {
				break
			}
			continue
		}
		rates = append(rates, r)
	}
	if len(errs) == 0 {
		errs = append(errs, checkRates(rates))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return rates, nil
}

func checkRates(rates []Rate) error {
	if len(rates) == 0 {
		return &RateError{"", "there is none", fixForm}
	}
	if len(rates) > MaxRates {
		return &RateError{strconv.Itoa(len(rates)) + " rates", "one limit has at most " + strconv.Itoa(MaxRates), "Leave out those that another one includes."}
	}
	for i, r := range rates {
		if err := r.Validate(); err != nil {
			return err
		}
		for _, earlier := range rates[:i] {
			if earlier.Per == r.Per {
				return &RateError{r.String(), "another rate of the same limit has this period, too", "Leave one of them. To space requests out, use a short period: 1/2s."}
			}
		}
	}
	return nil
}

// Validate returns a *RateError if r is not within the bounds.
func (r Rate) Validate() error {
	if r.valid() {
		return nil
	}
	bad := func(reason, fix string) error {
		return &RateError{fmt.Sprintf("%d/%s;burst=%d", r.Count, r.Per, r.Burst), reason, fix}
	}
	switch {
	case r.Count < 1 || r.Count > MaxCount:
		return bad("the count is not from 1 to "+strconv.Itoa(MaxCount), "For more, use a shorter period.")
	case r.Per < MinPer || r.Per > MaxPer:
		return bad("the period is not from 1 s to "+days(MaxPer), "Use one within, with a count to match.")
	case r.Per%time.Second != 0:
		return bad("the period is not a whole number of seconds", "Use a longer one, with a count to match.")
	case r.Burst < 0 || r.Burst > MaxCount:
		return bad("the burst is not from 1 to "+strconv.Itoa(MaxCount), "Leave it out: then it is the count.")
	}
	return bad("the burst takes longer than "+days(MaxRefill)+" to refill", "Use a smaller burst.")
}

func (r Rate) valid() bool {
	return r.Count >= 1 && r.Count <= MaxCount &&
		r.Per >= MinPer && r.Per <= MaxPer && r.Per%time.Second == 0 &&
		r.Burst >= 0 && r.Burst <= MaxCount &&
		int64(r.burst())*r.Per.Microseconds()/int64(r.Count) <= MaxRefill.Microseconds()
}

// burst is Burst with its default. The product with Per in microseconds is at
// most 2.6e18.
func (r Rate) burst() int {
	if r.Burst == 0 {
		return r.Count
	}
	return r.Burst
}

// String returns the rate as Parse reads it: "5/minute", "10/30s".
func (r Rate) String() string {
	s := strconv.Itoa(r.Count) + "/" + period(r.Per)
	if r.Burst != 0 {
		s += ";burst=" + strconv.Itoa(r.Burst)
	}
	return s
}

// MarshalText returns String, for configuration files.
func (r Rate) MarshalText() ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return []byte(r.String()), nil
}

// UnmarshalText is Parse, for configuration files.
func (r *Rate) UnmarshalText(text []byte) (err error) {
	*r, err = Parse(string(text))
	return err
}

// period writes a duration in its largest unit: "minute", "30s".
func period(d time.Duration) string {
	for _, u := range units {
		if d == u.per {
			return u.names[1]
		}
		if d > 0 && d%u.per == 0 {
			return strconv.FormatInt(int64(d/u.per), 10) + u.names[0]
		}
	}
	return d.String() // not valid
}

func days(d time.Duration) string { return strconv.Itoa(int(d/(24*time.Hour))) + " days" }

// number takes a number from 1 to 9,999,999 off the front.
func number(s string) (n int, rest string, ok bool) {
	i := 0
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	if i == 0 || i > 7 || s[0] == '0' {
		return 0, s, false
	}
	n, err := strconv.Atoi(s[:i])
	return n, s[i:], err == nil
}

// letters counts the ASCII letters at the front.
func letters(s string) int {
	i := 0
	for i < len(s) && ('a' <= s[i]|0x20 && s[i]|0x20 <= 'z') {
		i++
	}
	return i
}

// cutWord takes a word of ASCII letters off the front, in any case of them.
func cutWord(s, word string) (rest string, ok bool) {
	if n := letters(s); n == len(word) && strings.EqualFold(s[:n], word) {
		return s[n:], true
	}
	return s, false
}

func unitOf(word string) (time.Duration, bool) {
	for _, u := range units {
		for _, name := range u.names {
			if strings.EqualFold(word, name) { // word has ASCII letters only
				return u.per, true
			}
		}
	}
	return 0, false
}

// shorten keeps errors short whatever was parsed.
func shorten(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}
