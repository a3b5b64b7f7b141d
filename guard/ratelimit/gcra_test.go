package ratelimit

import (
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is the algorithm as textbooks have it, in fractions without bounds: a
// bucket that holds Burst and refills at Count/Per.
type model struct {
	rate   Rate
	tokens *big.Rat
	last   int64
}

func newModel(r Rate, now int64) *model {
	return &model{r, new(big.Rat).SetInt64(int64(r.burst())), now}
}

// perMicro is how much refills in a microsecond.
func (m *model) perMicro() *big.Rat {
	return big.NewRat(int64(m.rate.Count), m.rate.Per.Microseconds())
}

func (m *model) advance(now int64) {
	m.tokens.Add(m.tokens, new(big.Rat).Mul(m.perMicro(), new(big.Rat).SetInt64(now-m.last)))
	if full := new(big.Rat).SetInt64(int64(m.rate.burst())); m.tokens.Cmp(full) > 0 {
		m.tokens = full
	}
	m.last = now
}

func (m *model) has(n int) bool { return m.tokens.Cmp(new(big.Rat).SetInt64(int64(n))) >= 0 }

// wait is how many microseconds it takes until there are n.
func (m *model) wait(n int64) int64 {
	lack := new(big.Rat).Sub(new(big.Rat).SetInt64(n), m.tokens)
	if lack.Sign() <= 0 {
		return 0
	}
	q := lack.Quo(lack, m.perMicro())
	up := new(big.Int).Add(q.Num(), new(big.Int).Sub(q.Denom(), big.NewInt(1)))
	return up.Div(up, q.Denom()).Int64()
}

func (m *model) remaining() int {
	return int(new(big.Int).Div(m.tokens.Num(), m.tokens.Denom()).Int64())
}

func genRate(t *rapid.T) Rate {
	for {
		r := Rate{
			Count: rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(1, MaxCount)).Draw(t, "count"),
			Per:   time.Duration(rapid.OneOf(rapid.Just(int64(1)), rapid.Just(int64(60)), rapid.Int64Range(1, int64(MaxPer/time.Second))).Draw(t, "seconds")) * time.Second,
			Burst: rapid.OneOf(rapid.Just(0), rapid.IntRange(1, 5), rapid.IntRange(1, MaxCount)).Draw(t, "burst"),
		}
		if r.valid() {
			return r
		}
		r.Burst = 0
		if r.valid() {
			return r
		}
	}
}

// Whatever the rates and whenever requests come, Decide agrees with the model,
// to the microsecond: nothing is rounded on the way.
func TestDecideIsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rates := make([]Rate, rapid.IntRange(1, 3).Draw(t, "rates"))
		most := MaxCount
		for i := range rates {
			rates[i] = genRate(t)
			most = min(most, rates[i].burst())
		}
		now := rapid.Int64Range(0, 1<<51).Draw(t, "epoch")
		buckets := make([]Bucket, len(rates))
		models := make([]*model, len(rates))
		for i, r := range rates {
			models[i] = newModel(r, now)
		}
		for range rapid.IntRange(1, 40).Draw(t, "requests") {
			if rapid.Bool().Draw(t, "later") {
				r := rates[rapid.IntRange(0, len(rates)-1).Draw(t, "of")]
				now += rapid.OneOf(
					rapid.Int64Range(0, 3),
					rapid.Int64Range(0, 2*r.Per.Microseconds()/int64(r.Count)),
					rapid.Just(r.Per.Microseconds()),
					rapid.Just(MaxRefill.Microseconds()),
				).Draw(t, "by")
			}
			n := rapid.OneOf(rapid.IntRange(0, min(2, most)), rapid.IntRange(0, most), rapid.Just(most)).Draw(t, "n")
			var want Decision
			want.Allowed = true
			var wait int64
			for _, m := range models {
				m.advance(now)
				want.Allowed = want.Allowed && m.has(max(n, 1))
				wait = max(wait, m.wait(int64(max(n, 1))))
			}
			want.RetryAfter = time.Duration(wait) * time.Microsecond
			for _, m := range models {
				if want.Allowed {
					m.tokens.Sub(m.tokens, new(big.Rat).SetInt64(int64(n)))
				}
			}
			before := append([]Bucket(nil), buckets...)
			got := Decide(now, n, rates, buckets)
			if got.Allowed != want.Allowed || got.RetryAfter != want.RetryAfter {
				t.Fatalf("%v %d at %d: %+v, the model says %v %v", rates, n, now, got, want.Allowed, want.RetryAfter)
			}
			if got.Allowed != (got.RetryAfter == 0) {
				t.Fatalf("allowed %v, and to wait %v", got.Allowed, got.RetryAfter)
			}
			// The tightest rate is one of them, and none is tighter.
			var of *model
			for i, m := range models {
				if m.rate == got.Rate && m.remaining() == got.Remaining {
					of = m
				}
				if got.Allowed && m.remaining() < got.Remaining {
					t.Fatalf("%v has %d remaining, %+v was reported", m.rate, m.remaining(), got)
				}
				if !got.Allowed && before[i] != buckets[i] {
					t.Fatalf("a refusal changed %v into %v", before[i], buckets[i])
				}
			}
			if of == nil {
				t.Fatalf("%+v is of none of the rates", got)
			}
			reset := time.Duration(0)
			if of.remaining() < of.rate.burst() {
				reset = time.Duration(of.wait(int64(of.remaining()+1))) * time.Microsecond
			}
			if got.Reset != reset {
				t.Fatalf("%v: reset %v, the model says %v", of.rate, got.Reset, reset)
			}
			for i, b := range buckets {
				if b.Part < 0 || b.Part >= int64(rates[i].Count) {
					t.Fatalf("%v: part %d", rates[i], b.Part)
				}
			}
		}
	})
}

// Q: Retry-After is right. Who waits exactly so long passes; who waits a
// microsecond less does not.
func TestRetryAfterIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rates := []Rate{genRate(t), genRate(t)}
		now := int64(1 << 50)
		buckets := make([]Bucket, len(rates))
		most := min(rates[0].burst(), rates[1].burst())
		// Some use before, some rest; then all that goes.
		Decide(now, rapid.IntRange(0, most).Draw(t, "before"), rates, buckets)
		now += rapid.Int64Range(0, 2*rates[0].Per.Microseconds()).Draw(t, "rest")
		n := rapid.IntRange(max(1, most/100), most).Draw(t, "n")
		d := Decide(now, n, rates, buckets)
		for i := 0; d.Allowed; i++ {
			if i > most/n {
				t.Fatalf("%v let %d times %d through at once", rates, i, n)
			}
			d = Decide(now, n, rates, buckets)
		}
		wait := d.RetryAfter.Microseconds()
		early, late := append([]Bucket(nil), buckets...), append([]Bucket(nil), buckets...)
		if Decide(now+wait-1, n, rates, early).Allowed {
			t.Fatalf("%v: %v was said, and a microsecond less was enough", rates, d.RetryAfter)
		}
		if !Decide(now+wait, n, rates, late).Allowed {
			t.Fatalf("%v: %v was said, and not enough", rates, d.RetryAfter)
		}
	})
}

// Q: exactly N pass at once, and then one each Per/Count, however long it goes
// on: 7 a second for a day are 7 + 7 × 86,400.
func TestDecideDoesNotDrift(t *testing.T) {
	r := Rate{Count: 7, Per: time.Second}
	var b [1]Bucket
	passed, start := 0, int64(1<<50)
	take := func(now int64) time.Duration {
		for {
			d := Decide(now, 1, []Rate{r}, b[:])
			if !d.Allowed {
				return d.RetryAfter
			}
			passed++
		}
	}
	wait := take(start)
	if passed != 7 {
		t.Fatalf("%d at once, want 7", passed)
	}
	for now := start; ; {
		now += wait.Microseconds()
		if now > start+24*time.Hour.Microseconds() {
			break
		}
		before := passed
		if wait = take(now); passed != before+1 {
			t.Fatalf("%d passed after the wait, want 1", passed-before)
		}
	}
	if want := 7 + 7*86_400; passed != want {
		t.Errorf("%d passed in a day, want %d", passed, want)
	}
}

// Q: no doubling at window edges. A counter that begins anew every minute lets
// N through at the end of one and N more at the beginning of the next.
func TestNoDoublingAtWindowEdges(t *testing.T) {
	r := Rate{Count: 60, Per: time.Minute}
	minute := time.Minute.Microseconds()
	for edge := minute; edge <= 5*minute; edge += minute {
		var b [1]Bucket
		passed := 0
		for _, now := range []int64{edge - 2, edge - 1, edge, edge + 1} {
			for range 200 {
				if Decide(now, 1, []Rate{r}, b[:]).Allowed {
					passed++
				}
			}
		}
		if passed != 60 {
			t.Errorf("around the edge %d pass, want 60", passed)
		}
		// In any span, Burst and what refills in it. Half a minute later:
		for range 200 {
			if Decide(edge+1+minute/2, 1, []Rate{r}, b[:]).Allowed {
				passed++
			}
		}
		if passed != 90 {
			t.Errorf("%d pass in half a minute more, want 60 + 30", passed)
		}
	}
}

// A clock that is set back gives nothing away and locks nobody out for long;
// that holds where refused callers keep coming, too.
func TestClockSetBack(t *testing.T) {
	r := Rate{Count: 5, Per: time.Minute}
	const hour = int64(time.Hour / time.Microsecond)
	for _, back := range []int64{1, 1_000_000, hour, 1000 * hour} {
		now := 2000 * hour
		var b [1]Bucket
		for range 5 {
			if !Decide(now, 1, []Rate{r}, b[:]).Allowed {
				t.Fatal("refused")
			}
		}
		now -= back
		for i := range 12 {
			d := Decide(now, 1, []Rate{r}, b[:])
			if d.Allowed {
				t.Fatalf("back by %d µs: one passed at once", back)
			}
			// Per/Count, and the step itself if it was shorter.
			if i == 0 && (d.RetryAfter < 12*time.Second || d.RetryAfter > 13*time.Second) {
				t.Errorf("back by %d µs: to wait %v", back, d.RetryAfter)
			}
			now += 999_000
		}
		now += 1_100_000
		if !Decide(now, 1, []Rate{r}, b[:]).Allowed {
			t.Errorf("back by %d µs: locked out after %d s", back, 13)
		}
	}
	// What is not in use is not affected.
	b := []Bucket{{At: 5, Part: 2}}
	if d := Decide(10, 5, []Rate{r}, b); !d.Allowed {
		t.Error("an old bucket counts")
	}
}

// With clocks that jump both ways, no more passes than the burst and what
// refills in the time that the clock went forward.
func TestJumpingClockGivesNothingAway(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := genRate(t)
		now, forward, passed := int64(1<<51), int64(0), int64(0)
		var b [1]Bucket
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			step := rapid.Int64Range(-3*r.Per.Microseconds(), 2*r.Per.Microseconds()).Draw(t, "step")
			if step < 0 && now+step < 0 {
				continue
			}
			now += step
			forward += max(step, 0)
			n := rapid.IntRange(1, r.burst()).Draw(t, "n")
			if Decide(now, n, []Rate{r}, b[:]).Allowed {
				passed += int64(n)
			}
			refilled := new(big.Int).Mul(big.NewInt(forward), big.NewInt(int64(r.Count)))
			refilled.Div(refilled, big.NewInt(r.Per.Microseconds()))
			if passed > int64(r.burst())+refilled.Int64() {
				t.Fatalf("%v: %d passed, the clock went forward by %d µs", r, passed, forward)
			}
		}
	})
}

// Corrupt or foreign buckets neither panic nor let more through than a new one.
func FuzzDecide(f *testing.F) {
	f.Add(int64(0), int64(0), int64(0), 5, int64(60), 0, 1)
	f.Add(int64(1<<51), int64(1<<63-1), int64(1<<63-1), 1_000_000, int64(2_592_000), 1_000_000, 1_000_000)
	f.Add(int64(5), int64(-1<<63), int64(-1<<63), 7, int64(1), 1, 0)
	f.Fuzz(func(t *testing.T, now, at, part int64, count int, seconds int64, burst, n int) {
		r := Rate{count, time.Duration(seconds%2_592_001) * time.Second, burst}
		if CheckTake(n, []Rate{r}) != nil || now < 0 || now > 1<<52 {
			t.Skip()
		}
		b := []Bucket{{at, part}}
		d := Decide(now, n, []Rate{r}, b)
		if d.Remaining < 0 || d.Remaining > r.burst() || d.Reset < 0 || d.RetryAfter < 0 || d.RetryAfter > MaxRefill+time.Microsecond {
			t.Fatalf("%+v", d)
		}
		if d.Allowed && n > 0 && Decide(now, r.burst(), []Rate{r}, b).Allowed {
			t.Fatalf("%v: %d and the burst at once", r, n)
		}
	})
}

func TestCheckTake(t *testing.T) {
	ok := Rate{5, time.Minute, 3}
	many := make([]Rate, MaxRates+1)
	for i := range many {
		many[i] = ok
	}
	for _, tt := range []struct {
		n     int
		rates []Rate
		good  bool
	}{
		{0, []Rate{ok}, true},
		{3, []Rate{ok}, true},
		{1, many[1:], true},
		{4, []Rate{ok}, false},
		{-1, []Rate{ok}, false},
		{4, []Rate{{9, time.Minute, 0}, ok}, false},
		{1, nil, false},
		{1, many, false},
		{0, []Rate{{}}, false},
	} {
		if err := CheckTake(tt.n, tt.rates); (err == nil) != tt.good {
			t.Errorf("%d of %v: %v", tt.n, tt.rates, err)
		}
	}
}
