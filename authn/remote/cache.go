package remote

import (
	"crypto/sha256"

	"github.com/sallyport/sallyport"
)

// id names a credential without holding it. The kind is part of it: what is
// known of a text as a key must not decide about it as a token.
type id struct {
	kind   sallyport.Kind
	digest [sha256.Size]byte
}

func idOf(kind sallyport.Kind, credential string) id {
	return id{kind, sha256.Sum256([]byte(credential))}
}

// cache holds at most max values in two generations. What is used moves to the
// younger one; when that is half of max, the older one is dropped. So what was
// used last stays, and nothing needs a list or a timer. It is not safe for
// concurrent use.
type cache[V any] struct {
	max        int
	young, old map[id]V
}

func newCache[V any](size int) *cache[V] {
	return &cache[V]{max: size, young: map[id]V{}, old: map[id]V{}}
}

func (c *cache[V]) get(k id) (V, bool) {
	v, ok := c.young[k]
	if !ok {
		if v, ok = c.old[k]; ok {
			delete(c.old, k)
			c.put(k, v)
		}
	}
	return v, ok
}

func (c *cache[V]) put(k id, v V) {
	if _, there := c.young[k]; !there && len(c.young) >= c.max/2 {
		c.turn()
	}
	c.young[k] = v
}

// turn makes the younger generation the older one.
func (c *cache[V]) turn() { c.young, c.old = map[id]V{}, c.young }

func (c *cache[V]) len() int { return len(c.young) + len(c.old) }
