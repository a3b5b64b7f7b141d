package ratelimit

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestParse(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		text string
		want Rate
		back string // of String
	}{
		{"5/minute", Rate{5, time.Minute, 0}, "5/minute"},
		{"100/hour;burst=20", Rate{100, time.Hour, 20}, "100/hour;burst=20"},
		{"10/30s", Rate{10, 30 * time.Second, 0}, "10/30s"},
		{"1000/day", Rate{1000, day, 0}, "1000/day"},
		{"5 per minute", Rate{5, time.Minute, 0}, "5/minute"},
		{"5 PER Minutes", Rate{5, time.Minute, 0}, "5/minute"},
		{"5per2min", Rate{5, 2 * time.Minute, 0}, "5/2m"},
		{" 5 / 1 minute ; burst = 7 ", Rate{5, time.Minute, 7}, "5/minute;burst=7"},
		{"1/s", Rate{1, time.Second, 0}, "1/second"},
		{"1/sec", Rate{1, time.Second, 0}, "1/second"},
		{"1/60 secs", Rate{1, time.Minute, 0}, "1/minute"},
		{"1/90s", Rate{1, 90 * time.Second, 0}, "1/90s"},
		{"2/24h", Rate{2, day, 0}, "2/day"},
		{"2/36 hrs", Rate{2, 36 * time.Hour, 0}, "2/36h"},
		{"1000000/30d", Rate{1_000_000, 30 * day, 0}, "1000000/30d"},
		{"1000000/second;burst=1", Rate{1_000_000, time.Second, 1}, "1000000/second;burst=1"},
		{"1/30 days;burst=12", Rate{1, 30 * day, 12}, "1/30d;burst=12"},
	} {
		r, err := Parse(tt.text)
		if err != nil || r != tt.want {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", tt.text, r, err, tt.want)
			continue
		}
		if r.String() != tt.back {
			t.Errorf("%q is written %q, want %q", tt.text, r, tt.back)
		}
		if again, err := Parse(r.String()); err != nil || again != r {
			t.Errorf("%q read again is %+v, %v", r, again, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct{ text, reason string }{
		{"", "begin with a count"},
		{"minute", "begin with a count"},
		{"/minute", "begin with a count"},
		{"0/minute", "begin with a count"},
		{"05/minute", "begin with a count"},
		{"-5/minute", "begin with a count"},
		{"+5/minute", "begin with a count"},
		{"٥/minute", "begin with a count"},
		{"99999999/minute", "begin with a count"},
		{"1000001/minute", "count is not from 1"},
		{"1e3/minute", "neither"},
		{"1.5/minute", "neither"},
		{"5", "neither"},
		{"5 minute", "neither"},
		{"5 perminute", "neither"},
		{"5/", "no unit"},
		{"5/fortnight", "no unit"},
		{"5/month", "no unit"},
		{"5/ms", "no unit"},
		{"5/\u017fecond", "no unit"}, // long s
		{"5/0s", "number in the period"},
		{"5/030s", "number in the period"},
		{"5/1h30m", "more than one unit"},
		{"5/31d", "longer than 30 days"},
		{"5/9999999d", "longer than 30 days"},
		{"5/minute;", "something else than burst"},
		{"5/minute;burst", "something else than burst"},
		{"5/minute;bursts=5", "something else than burst"},
		{"5/minute; 100/hour", "something else than burst"},
		{"5/minute;burst=", "burst is not a number"},
		{"5/minute;burst=0", "burst is not a number"},
		{"5/minute;burst=1000001", "burst is not from 1"},
		{"5/minute;burst=5;burst=5", "stands behind"},
		{"1/30d;burst=13", "refill"},
		{"5/minute, 3/hour", "more than one rate"},
		{"5/minute\n", "stands behind"},
		{"5/minute\x00", "stands behind"},
		{strings.Repeat("x", 1<<20), "begin with a count"},
	} {
		r, err := Parse(tt.text)
		e, ok := err.(*RateError)
		if !ok || r != (Rate{}) {
			t.Errorf("Parse(%.40q) = %+v, %v; want a *RateError", tt.text, r, err)
			continue
		}
		if !strings.Contains(e.Reason, tt.reason) || e.Fix == "" || len(e.Error()) > 400 {
			t.Errorf("Parse(%.40q): %.500q, want %q", tt.text, e.Error(), tt.reason)
		}
	}
}

func TestParseAll(t *testing.T) {
	got, err := ParseAll("5/minute, 100/hour;burst=20,1000/day")
	if err != nil || len(got) != 3 || got[0] != (Rate{5, time.Minute, 0}) || got[1] != (Rate{100, time.Hour, 20}) || got[2] != (Rate{1000, 24 * time.Hour, 0}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, tt := range []struct {
		text string
		want int // errors
	}{
		{"", 1},
		{"5/minute,", 1},
		{"5/minute,,6/hour", 1},
		{"5/minute,x,y/hour", 2},
		{"5/minute,6/60s", 1},
		{"1/1s,1/2s,1/3s,1/4s,1/5s,1/6s,1/7s,1/8s,1/9s", 1},
		{strings.Repeat(",", 1<<16), MaxRates + 1},
	} {
		got, err := ParseAll(tt.text)
		if err == nil || got != nil {
			t.Errorf("ParseAll(%.40q) = %v, %v", tt.text, got, err)
			continue
		}
		errs := err.(interface{ Unwrap() []error }).Unwrap()
		if len(errs) != tt.want {
			t.Errorf("ParseAll(%.40q): %d errors, want %d: %v", tt.text, len(errs), tt.want, err)
		}
		for _, err := range errs {
			if _, ok := errors.AsType[*RateError](err); !ok {
				t.Errorf("%v is a %T", err, err)
			}
		}
	}
}

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		rate   Rate
		reason string
	}{
		{Rate{1, time.Second, 0}, ""},
		{Rate{MaxCount, MaxPer, MaxCount}, ""},
		{Rate{1, MaxPer, 12}, ""},
		{Rate{}, "count"},
		{Rate{-1, time.Second, 0}, "count"},
		{Rate{MaxCount + 1, time.Second, 0}, "count"},
		{Rate{1, 0, 0}, "period"},
		{Rate{1, -time.Second, 0}, "period"},
		{Rate{1, time.Millisecond, 0}, "period"},
		{Rate{1, 1500 * time.Millisecond, 0}, "whole number"},
		{Rate{1, MaxPer + time.Second, 0}, "period"},
		{Rate{1, time.Second, -1}, "burst"},
		{Rate{1, time.Second, MaxCount + 1}, "burst"},
		{Rate{1, MaxPer, 13}, "refill"},
	} {
		err := tt.rate.Validate()
		if tt.reason == "" {
			if err != nil {
				t.Errorf("%+v: %v", tt.rate, err)
			}
		} else if e, ok := err.(*RateError); !ok || !strings.Contains(e.Reason, tt.reason) {
			t.Errorf("%+v: %v, want %q", tt.rate, err, tt.reason)
		}
	}
}

// Configuration files hold rates as text.
func TestRateAsText(t *testing.T) {
	var c struct{ Limit Rate }
	if err := json.Unmarshal([]byte(`{"Limit":"5/minute"}`), &c); err != nil || c.Limit != (Rate{5, time.Minute, 0}) {
		t.Errorf("%+v, %v", c, err)
	}
	if b, err := json.Marshal(c); err != nil || string(b) != `{"Limit":"5/minute"}` {
		t.Errorf("%s, %v", b, err)
	}
	if err := json.Unmarshal([]byte(`{"Limit":"5"}`), &c); err == nil {
		t.Error("5 was read")
	}
	if b, err := json.Marshal(Rate{}); err == nil {
		t.Errorf("no rate was written as %s", b)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"5/minute", "100/hour;burst=20", "10/30s", "5 per minute", "1000000/30d", "5/1h30m", "5/minute, 3/hour", "\xff/s", "1/s;burst=1;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			if e, ok := err.(*RateError); !ok || e.Reason == "" || e.Fix == "" || len(e.Value) > 70 || utf8.ValidString(s) && !utf8.ValidString(e.Value) {
				t.Fatalf("%q: %#v", s, err)
			}
		} else {
			if err := r.Validate(); err != nil {
				t.Fatalf("%q is read as %+v: %v", s, r, err)
			}
			if again, err := Parse(r.String()); err != nil || again != r {
				t.Fatalf("%q is read as %+v, written %q and read as %+v, %v", s, r, r, again, err)
			}
		}
		all, errAll := ParseAll(s)
		if (errAll == nil) != (len(all) > 0) || err == nil && (errAll != nil || all[0] != r) {
			t.Fatalf("ParseAll(%q) = %v, %v; Parse: %v, %v", s, all, errAll, r, err)
		}
	})
}
