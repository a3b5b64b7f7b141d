package redis

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/sallyport/sallyport/guard/ratelimit"
)

// limits is a ratelimit.Store.
//
// The script decides, since only there nothing comes between reading and
// writing. It does what ratelimit.Decide does, and returns what it found and
// when, so that Decide says the rest: what remains, and how long to wait. Both
// are exact, so they cannot differ; if they did, the call would fail.
//
// A double holds whole numbers up to 2^53 exactly: microseconds until the year
// 2255. So instants stay in two parts, whole microseconds and 1/Count of one, and
// the largest number anywhere is the time plus a year.
type limits struct {
	c    *Client
	macs *sync.Pool // of HMAC under the secret; nil without one
}

func newLimits(c *Client) *limits {
	l := &limits{c: c}
	if len(c.secret) > 0 {
		l.macs = &sync.Pool{New: func() any { return hmac.New(sha256.New, c.secret) }}
	}
	return l
}

// ARGV: for each rate Count, the cost of what is asked for and the whole burst,
// both as microseconds and parts, and 1 if the cost is to be charged. The value
// is instants and parts with spaces between.
//
// A bucket that is fuller than it can be (the clock went back) counts as full and
// is written so, although nothing is charged: see ratelimit.Decide.
var script = rueidis.NewLuaScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local old, n = {}, 0
local v = redis.call('GET', KEYS[1])
if v then
  for s in string.gmatch(v, '%d+') do n = n + 1; old[n] = tonumber(s) end
end
local pass, stale, last, rates = 1, false, 0, (#ARGV - 1) / 5
local found, after = {}, {}
for i = 1, rates do
  local p = (i - 1) * 5
  local count = tonumber(ARGV[p + 1])
  local at, part = now, 0
  if n == rates * 2 then
    at, part = old[i * 2 - 1], old[i * 2]
    found[i * 2 - 1], found[i * 2] = at, part
    if at < now then at, part = now, 0 end
  else
    found[i * 2 - 1], found[i * 2] = 0, 0
  end
  local fullAt, fullPart = now + ARGV[p + 4], tonumber(ARGV[p + 5])
  if at > fullAt or at == fullAt and part > fullPart then
    at, part, stale = fullAt, fullPart, true
  end
  after[i * 2 - 1], after[i * 2] = at, part
  at, part = at + ARGV[p + 2], part + ARGV[p + 3]
  if part >= count then at, part = at + 1, part - count end
  if at > fullAt or at == fullAt and part > fullPart then pass = 0 end
  old[i * 2 - 1], old[i * 2] = at, part
end
local charge = pass == 1 and ARGV[#ARGV] == '1'
if charge then after = old end
if charge or stale then
  for i = 1, rates do
    local at = after[i * 2 - 1]
    if after[i * 2] > 0 then at = at + 1 end
    if at > last then last = at end
  end
  for i = 1, rates * 2 do after[i] = string.format('%.0f', after[i]) end
  local ms = math.ceil((last - now) / 1000)
  if ms < 1 then ms = 1 end
  redis.call('SET', KEYS[1], table.concat(after, ' ', 1, rates * 2), 'PX', string.format('%.0f', ms))
end
found[rates * 2 + 1], found[rates * 2 + 2] = now, pass
return found
`)

var errAnswer = errors.New("redis: the script's answer is not what was asked for")

// Take implements ratelimit.Store. It takes at most Options.Timeout. It does
// not look at ctx: a caller who goes away must not end a connection that others
// use.
func (l *limits) Take(_ context.Context, key string, n int, rates ...ratelimit.Rate) (ratelimit.Decision, error) {
	if err := ratelimit.CheckTake(n, rates); err != nil {
		return ratelimit.Decision{}, err
	}
	args := make([]string, 0, 5*len(rates)+1)
	for _, r := range rates {
		count, per := int64(r.Count), r.Per.Microseconds()
		cost := int64(max(n, 1)) * per
		full := int64(r.Burst) * per
		if r.Burst == 0 {
			full = count * per
		}
		for _, v := range [...]int64{count, cost / count, cost % count, full / count, full % count} {
			args = append(args, strconv.FormatInt(v, 10))
		}
	}
	charge := "1"
	if n == 0 {
		charge = "0"
	}
	args = append(args, charge)

	ctx, cancel := context.WithTimeout(context.Background(), l.c.timeout)
	defer cancel()
	keys := []string{l.name(key, rates)}
	answer, err := script.Exec(ctx, l.c.redis, keys, args).AsIntSlice()
	if err != nil && isBroken(err) {
		// The connection was broken, perhaps long ago: that shows when it is used.
		// Should the call have been counted, it is counted twice, which is never too
		// loose.
		answer, err = script.Exec(ctx, l.c.redis, keys, args).AsIntSlice()
	}
	if err != nil {
		return ratelimit.Decision{}, fmt.Errorf("redis: %s: %w", l.c.name, err)
	}
	if len(answer) != 2*len(rates)+2 {
		return ratelimit.Decision{}, errAnswer
	}
	var buckets [ratelimit.MaxRates]ratelimit.Bucket
	for i := range rates {
		buckets[i] = ratelimit.Bucket{At: answer[2*i], Part: answer[2*i+1]}
	}
	now, passed := answer[2*len(rates)], answer[2*len(rates)+1] == 1
	d := ratelimit.Decide(now, n, rates, buckets[:len(rates)])
	if d.Allowed != passed {
		return ratelimit.Decision{}, errAnswer
	}
	return d, nil
}

// isBroken reports whether a call failed because of its connection, neither by an
// answer of the server nor by the time limit.
func isBroken(err error) bool {
	_, answered := rueidis.IsRedisErr(err)
	return !answered && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, rueidis.ErrClosing)
}

// name is the key in Redis: a digest of the key and its rates, cut to 128 bits.
// Keys are addresses and names of people, and Redis is where others look, too.
// With rates in it, a limit that was changed begins anew and is not read as if
// it were the old one. The braces keep what belongs to a key on one node of a
// Cluster.
func (l *limits) name(key string, rates []ratelimit.Rate) string {
	text := make([]byte, 0, 128)
	for _, r := range rates {
		burst := r.Burst
		if burst == 0 {
			burst = r.Count
		}
		text = strconv.AppendInt(text, int64(r.Count), 10)
		text = strconv.AppendInt(append(text, '/'), int64(r.Per/time.Second), 10)
		text = strconv.AppendInt(append(text, '/'), int64(burst), 10)
		text = append(text, ',')
	}
	text = append(text, ':') // nothing before it is the key's
	text = append(text, key...)
	var sum [sha256.Size]byte
	if l.macs != nil {
		m := l.macs.Get().(hash.Hash)
		m.Reset()
		m.Write(text)
		m.Sum(sum[:0])
		l.macs.Put(m)
	} else {
		sum = sha256.Sum256(text)
	}
	out := append(make([]byte, 0, 128), l.c.prefix...)
	out = append(out, "limit:{"...)
	out = base64.RawURLEncoding.AppendEncode(out, sum[:16])
	return string(append(out, '}'))
}
