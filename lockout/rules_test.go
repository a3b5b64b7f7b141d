package lockout

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestDelays(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		0: 0, 1: 0, 4: 0, 5: 30 * time.Second, 6: time.Minute, 7: 2 * time.Minute, 8: 4 * time.Minute, 9: 8 * time.Minute,
		10: 16 * time.Minute, 11: 32 * time.Minute, 12: time.Hour, 13: time.Hour, 100: time.Hour, 1 << 40: time.Hour,
	} {
		if got := delay(failures); got != want {
			t.Errorf("after %d failures: %v, want %v", failures, got, want)
		}
	}
}

// What docs/lockout.md says of somebody who tries as soon as they may.
func TestGuessesInADay(t *testing.T) {
	for day, want := range []int{34, 24, 24} {
		var p pair
		n := 0
		for now := epoch; now.Before(epoch.Add(time.Duration(day+1) * 24 * time.Hour)); {
			p, _ = p.at(now)
			if locked, full := p.wait(now); locked > 0 || full {
				now = now.Add(locked)
				continue
			}
			var end time.Time
			p, end = p.hold(now)
			p, _ = p.fail(now, end)
			if now.Sub(epoch) >= time.Duration(day)*24*time.Hour {
				n++
			}
		}
		if n != want {
			t.Errorf("day %d: %d guesses, want %d", day+1, n, want)
		}
	}
	var tl tally
	n := 0
	for now := epoch; !now.After(epoch.Add(24 * time.Hour)); { // the last one at its very end
		if d := tl.wait(now, ofAccount); d > 0 {
			now = now.Add(d)
			continue
		}
		tl = tl.take(now, ofAccount)
		n++
	}
	if n != 100 {
		t.Errorf("%d guesses at an account in a day from all networks, want 100", n)
	}
}

// A history of attempts of one account from one network, against what must hold
// of any such history.
func TestRulesAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := epoch
		var p pair
		type attempt struct{ end time.Time }
		var open []attempt          // begun and not ended
		row, last := 0, time.Time{} // failures in a row, and when the last one was
		seen := time.Time{}
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.OneOf(
					rapid.Int64Range(0, int64(2*time.Minute)), rapid.Int64Range(0, int64(2*time.Hour)), rapid.Int64Range(0, int64(100*24*time.Hour)),
				).Draw(t, "by")))
			},
			"begin": func(t *rapid.T) {
				if row > 0 && now.Sub(last) >= 24*time.Hour {
					row = 0
				}
				under := 0
				for _, a := range open {
					if now.Before(a.end) {
						under++
					}
				}
				p, _ = p.at(now)
				locked, full := p.wait(now)
				wantLocked := time.Duration(0)
				if row >= 5 {
					wantLocked = max(0, min(time.Hour, 30*time.Second<<(row-5))-now.Sub(last))
				}
				// Some of those under way may have begun before a success, when more were
				// allowed; no more may begin until the sum is right again.
				wantFull := wantLocked == 0 && under >= max(1, 5-row)
				if locked != wantLocked || full != wantFull {
					t.Fatalf("%d failures, the last %v ago, %d under way: locked for %v, full %t; want %v, %t", row, now.Sub(last), under, locked, full, wantLocked, wantFull)
				}
				if locked > 0 || full {
					return
				}
				var end time.Time
				p, end = p.hold(now)
				open = append(open, attempt{end})
			},
			"end": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip("nothing is under way")
				}
				i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
				end := open[i].end
				open = append(open[:i:i], open[i+1:]...)
				p, _ = p.at(now)
				if row > 0 && now.Sub(last) >= 24*time.Hour {
					row = 0
				}
				switch rapid.SampledFrom([]string{"fails", "fails", "fails", "succeeds", "is given back"}).Draw(t, "it") {
				case "fails":
					p, _ = p.fail(now, end)
					row, last = row+1, now
				case "succeeds":
					p = p.succeed(now, end)
					row, last, seen = 0, time.Time{}, now
				default:
					p = p.release(end)
				}
			},
			"": func(t *rapid.T) {
				q, mended := p.at(now)
				if mended {
					t.Fatal("the clock was not set back")
				}
				if want := !seen.IsZero() && now.Sub(seen) < 90*24*time.Hour; q.familiar(now) != want {
					t.Fatalf("familiar: %t, want %t", !want, want)
				}
				if locked, full := q.wait(now); locked > 0 {
					if over := q.over(); over.Before(now.Add(locked)) {
						t.Fatal("a row may go while its lock lasts")
					}
				} else if full && !q.over().After(now) {
					t.Fatal("a row may go while attempts are under way")
				}
			},
		})
	})
}

// In any time there are no more attempts than a budget says, and after the wait
// that it names there is one.
func TestBudgetAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := budget{rapid.IntRange(1, 20).Draw(t, "size"), time.Duration(rapid.Int64Range(1, 600).Draw(t, "every")) * time.Second}
		now := epoch
		var tl tally
		var times []time.Time // of attempts that were not given back
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(3*b.every)).Draw(t, "by")))
			},
			"take": func(t *rapid.T) {
				if d := tl.wait(now, b); d > 0 {
					if early := now.Add(d - 1); tl.wait(early, b) == 0 {
						t.Fatal("there is one before the wait is over")
					}
					now = now.Add(d)
					if tl.wait(now, b) != 0 {
						t.Fatal("there is none when the wait is over")
					}
				}
				tl = tl.take(now, b)
				times = append(times, now)
			},
			"take and give back": func(t *rapid.T) {
				before := tl.wait(now, b)
				if before > 0 {
					t.Skip("used up")
				}
				if after := tl.take(now, b).giveBack(now, b); after.wait(now, b) != 0 {
					t.Fatal("what was given back is gone")
				}
			},
			"": func(t *rapid.T) {
				for i := range times {
					for j := i; j < len(times); j++ {
						if n, most := j-i+1, b.size+int(times[j].Sub(times[i])/b.every); n > most {
							t.Fatalf("%d attempts in %v, want at most %d", n, times[j].Sub(times[i]), most)
						}
					}
				}
				if len(times) < b.size && tl.wait(now, b) != 0 {
					t.Fatalf("used up after %d of %d", len(times), b.size)
				}
			},
		})
	})
}

// A clock that was set back begins locks anew: nobody is free at once, and nobody
// is locked for longer than by the new clock.
func TestClockSetBack(t *testing.T) {
	for _, back := range []time.Duration{2 * time.Minute, time.Hour, 24 * time.Hour, 10 * 365 * 24 * time.Hour} {
		p := pair{seen: epoch}
		var end time.Time
		for range 7 {
			p, end = p.hold(epoch)
			p, _ = p.fail(epoch, end)
		}
		p, _ = p.hold(epoch)
		now := epoch.Add(-back)
		q, mended := p.at(now)
		if locked, _ := q.wait(now); !mended || locked != delay(7) {
			t.Errorf("back by %v: mended %t, locked for %v, want %v", back, mended, locked, delay(7))
		}
		if len(q.held) != 0 {
			t.Errorf("back by %v: an attempt is under way until %v later", back, q.held[0].Sub(now))
		}
		if !q.familiar(now) {
			t.Errorf("back by %v: the network is not familiar any more", back)
		}
		now = now.Add(delay(7))
		if q, mended = q.at(now); mended {
			t.Errorf("back by %v: mended twice", back)
		}
		if locked, full := q.wait(now); locked > 0 || full {
			t.Errorf("back by %v: still locked for %v when the lock is over", back, locked)
		}

		var tl tally
		for range ofAddress.size {
			tl = tl.take(epoch, ofAddress)
		}
		now = epoch.Add(-back)
		u, mended := tl.at(now, ofAddress)
		if d := u.wait(now, ofAddress); !mended || d != ofAddress.every {
			t.Errorf("back by %v: budget mended %t, wait %v", back, mended, d)
		}
	}
	// What a node's clock may be off by is no setting back.
	p, end := pair{}.hold(epoch)
	for range 5 {
		p, _ = p.fail(epoch, end)
	}
	if _, mended := p.at(epoch.Add(-skew)); mended {
		t.Error("another node's clock is taken for one that was set back")
	}
}

func TestNetworks(t *testing.T) {
	for _, c := range []struct{ addr, address, wider string }{
		{"203.0.113.7", "203.0.113.7/32", "203.0.113.0/24"},
		{"::ffff:203.0.113.7", "203.0.113.7/32", "203.0.113.0/24"},
		{"64:ff9b::203.0.113.7", "203.0.113.7/32", "203.0.113.0/24"},
		{"64:ff9b::198.51.100.9", "198.51.100.9/32", "198.51.100.0/24"},
		{"64:ff9b:1::203.0.113.7", "64:ff9b:1::/64", "64:ff9b:1::/48"}, // a network's own use of it
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"},
		{"2001:db8:1:2:ffff::1", "2001:db8:1:2::/64", "2001:db8:1::/48"},
		{"2001:db8:1:3::1", "2001:db8:1:3::/64", "2001:db8:1::/48"},
		{"fe80::1%eth0", "fe80::/64", "fe80::/48"},
		{"", "none", "none/0"},
	} {
		var a netip.Addr
		if c.addr != "" {
			a = netip.MustParseAddr(c.addr)
		}
		if got := networksOf(a); got != (networks{c.address, c.wider}) {
			t.Errorf("%s: %v", c.addr, got)
		}
	}
}

// Every address has two networks, which differ and are stored under other names
// than everything together.
func FuzzNetworks(f *testing.F) {
	f.Add([]byte{203, 0, 113, 7})
	f.Add([]byte("\x20\x01\x0d\xb8\x00\x01\x00\x02aaaaaaaa"))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xcb\x00\x71\x07"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, _ := netip.AddrFromSlice(b)
		n := networksOf(a)
		if n.address == "" || n.wider == "" || n.address == n.wider {
			t.Fatalf("%v: %v", a, n)
		}
		if !a.IsValid() || translated.Contains(a) {
			return
		}
		own, err1 := netip.ParsePrefix(n.address)
		wider, err2 := netip.ParsePrefix(n.wider)
		if err1 != nil || err2 != nil || !own.Contains(a.Unmap()) || !wider.Contains(own.Addr()) || wider.Bits() >= own.Bits() {
			t.Fatalf("%v: %v", a, n)
		}
	})
}

// Whatever stands in the row, reading it does not fail, and what is read is read
// again as the same.
func FuzzHeld(f *testing.F) {
	f.Add("1772366460000000 1772366461000000")
	f.Add("x  -1 99999999999999999999")
	f.Fuzz(func(t *testing.T, held string) {
		r := row{held: held}
		p := r.pair()
		var texts []string
		for _, end := range p.held {
			texts = append(texts, heldText(end))
		}
		again := row{held: strings.Join(texts, " ")}
		q := again.pair()
		if len(q.held) != len(p.held) {
			t.Fatalf("%q became %q", held, again.held)
		}
		for i := range q.held {
			if !q.held[i].Equal(p.held[i]) {
				t.Fatalf("%q became %q", held, again.held)
			}
		}
	})
}
