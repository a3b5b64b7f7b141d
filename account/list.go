package account

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/sallyport/sallyport/internal/db"
	"github.com/sallyport/sallyport/internal/page"
)

// List returns a page of accounts in order of creation, and the cursor of the
// next page, "" after the last.
func (s *Service) List(ctx context.Context, f Filter, cursor string, limit int) ([]User, string, error) {
	f.Query = strings.ToLower(norm.NFKC.String(f.Query))
	name := fmt.Sprintf("users %q %q", f.Query, f.Role)
	if f.Disabled != nil {
		name += fmt.Sprint(*f.Disabled)
	}
	var after position
	if cursor != "" {
		if err := page.Decode(s.cfg.CursorKey, name, cursor, &after); err != nil {
			return nil, "", err
		}
	}
	users, err := listUsers(s.cfg.DB.View(ctx), f, after, limit+1)
	if err != nil || len(users) <= limit {
		return users, "", err
	}
	users = users[:limit]
	last := users[limit-1]
	return users, page.Encode(s.cfg.CursorKey, name, position{db.Micros(last.CreatedAt), last.ID}), nil
}
