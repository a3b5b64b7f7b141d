package role

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/db"
)

// maxCached bounds the cache, in different combinations of grants: most subjects
// share one with many others.
const maxCached = 100_000

// Cache resolves grants and remembers them for one version of the roles. The
// same grants are the same pointer, however many subjects have them.
type Cache struct {
	db *db.DB

	mu      sync.RWMutex
	graph   Graph
	version int64 // of graph; 0: none
	known   map[direct]*sallyport.Grants
}

// direct is what was given to a subject itself, in sorted order.
type direct struct{ roles, permissions string }

// NewCache returns an empty cache over d.
func NewCache(d *db.DB) *Cache { return &Cache{db: d} }

// Resolve returns what these roles and permissions (separated by spaces, in any
// order) amount to under this version of the roles, or a later one.
func (c *Cache) Resolve(ctx context.Context, version int64, roles, permissions string) (*sallyport.Grants, error) {
	d := direct{sortedWords(roles), sortedWords(permissions)}
	c.mu.RLock()
	graph, at, g := c.graph, c.version, c.known[d]
	c.mu.RUnlock()
	if at != version {
		var err error
		if graph, at, err = c.load(ctx); err != nil {
			return nil, err
		}
		g = nil
	}
	if g != nil {
		return g, nil
	}
	r, p := strings.Fields(d.roles), strings.Fields(d.permissions)
	g = graph.Resolve(r, p).WithDirect(r, p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.version != at || len(c.known) >= maxCached {
		c.graph, c.version, c.known = graph, at, map[direct]*sallyport.Grants{}
	}
	if known := c.known[d]; known != nil {
		return known, nil
	}
	c.known[d] = g
	return g, nil
}

func sortedWords(s string) string {
	if !strings.Contains(s, " ") {
		return s
	}
	words := strings.Fields(s)
	slices.Sort(words)
	return strings.Join(words, " ")
}

// maxLoads bounds how often load begins again because something changed.
const maxLoads = 10

// load reads the roles and the version they belong to. It takes several
// statements; when the version moved between them, what was read may mix the old
// with the new, and it reads again.
func (c *Cache) load(ctx context.Context) (Graph, int64, error) {
	view := c.db.View(ctx)
	for range maxLoads {
		before, err := rolesVersion(view)
		if err != nil {
			return Graph{}, 0, err
		}
		graph, err := LoadGraph(view)
		if err != nil {
			return Graph{}, 0, err
		}
		after, err := rolesVersion(view)
		if err != nil || before == after {
			return graph, after, err
		}
	}
	return Graph{}, 0, &db.Error{Op: "read roles", Err: errors.New("they change faster than they can be read")}
}
