package role

import (
	"context"
	"errors"
	"sync"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/internal/db"
)

// maxCached bounds the cache, in subjects; about 200 bytes each.
const maxCached = 100_000

// Cache resolves grants and remembers them by version. A caller that has read
// the versions with the session cannot be given stale grants: a change of
// either version is another key.
type Cache struct {
	db *db.DB

	mu       sync.RWMutex
	graph    Graph
	graphAt  int64 // version of graph; 0: none
	subjects map[string]cached
}

type cached struct {
	subject, roles int64
	grants         *sallyport.Grants
}

// NewCache returns an empty cache over d.
func NewCache(d *db.DB) *Cache { return &Cache{db: d, subjects: map[string]cached{}} }

// Grants returns the subject's grants at these versions or later ones. A
// subject that is gone has none.
func (c *Cache) Grants(ctx context.Context, subject string, subjectVersion, rolesVersion int64) (*sallyport.Grants, error) {
	c.mu.RLock()
	e, ok := c.subjects[subject]
	graph, graphAt := c.graph, c.graphAt
	c.mu.RUnlock()
	if ok && e.subject == subjectVersion && e.roles == rolesVersion {
		return e.grants, nil
	}
	grants, graph, subjectVersion, rolesVersion, err := c.load(ctx, subject, graph, graphAt)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.graphAt < rolesVersion {
		c.graph, c.graphAt = graph, rolesVersion
	}
	if len(c.subjects) >= maxCached {
		clear(c.subjects)
	}
	c.subjects[subject] = cached{subjectVersion, rolesVersion, grants}
	return grants, nil
}

// maxLoads bounds how often load begins again because something changed.
const maxLoads = 10

// load reads a subject's grants and the versions they belong to. It takes
// several statements; when a version moved between them, what was read may mix
// the old with the new, and it reads again.
func (c *Cache) load(ctx context.Context, subject string, graph Graph, graphAt int64) (*sallyport.Grants, Graph, int64, int64, error) {
	view := c.db.View(ctx)
	subjectVersion, rolesVersion, err := versions(view, subject)
	for range maxLoads {
		if err != nil {
			return nil, graph, 0, 0, err
		}
		if graphAt != rolesVersion {
			if graph, err = LoadGraph(view); err != nil {
				return nil, graph, 0, 0, err
			}
			graphAt = 0 // not known to be whole yet
		}
		var roles, perms []string
		if roles, perms, err = Direct(view, subject); err != nil {
			return nil, graph, 0, 0, err
		}
		s, r, verr := versions(view, subject)
		if verr == nil && s == subjectVersion && r == rolesVersion {
			return graph.Resolve(roles, perms).WithDirect(roles, perms), graph, s, r, nil
		}
		subjectVersion, rolesVersion, err = s, r, verr
	}
	return nil, graph, 0, 0, &db.Error{Op: "read grants", Err: errors.New("they change faster than they can be read")}
}
