package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/api"
	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/authn/token/keyring"
	"github.com/sallyport/sallyport/authn/totp"
	"github.com/sallyport/sallyport/internal/seal"
	"github.com/sallyport/sallyport/session"
)

// keyGrace is added to the life of an access token before a replaced key is
// retired: clocks differ.
const keyGrace = 5 * time.Minute

// openKeys reads the signing keys, or makes them and their master key for a
// database that has none. With a master key that is lost or wrong it changes
// nothing.
func openKeys(ctx context.Context, cfg Config) (*keyring.Ring, error) {
	hasKeys, err := keyring.HasKeys(cfg.DB.View(ctx))
	if err != nil {
		return nil, err
	}
	grace := cfg.AccessTTL
	if grace == 0 {
		grace = session.DefaultAccessTTL
	}
	kc := keyring.Config{DB: cfg.DB, Alg: cfg.Algorithm, Secret: cfg.Secret, Grace: grace + keyGrace, Now: cfg.Now}
	if cfg.MasterKey != "" {
		if kc.Master, err = seal.Parse(cfg.MasterKey); err != nil {
			return nil, sallyport.Mistake("keys.master", "", err.Error(), "Give the key that the database was made with.")
		}
		return opened(ctx, kc, "keys.master")
	}
	file, err := masterKeyFile(cfg)
	if err != nil {
		return nil, err
	}
	kc.Master, err = seal.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if hasKeys {
			return nil, sallyport.Mistake(
				"keys.master", file, "the file does not exist, but the database holds keys that were sealed under it",
				"Put the master key back from its backup. Without it those keys are lost; nothing was changed.",
			)
		}
		kc.Master = seal.Generate()
		if err = kc.Master.WriteFile(file); errors.Is(err, fs.ErrExist) { // another process was first
			kc.Master, err = seal.ReadFile(file)
		}
	}
	if err != nil {
		return nil, sallyport.Mistake("keys.master", file, err.Error(), "See docs/keys.md.")
	}
	_, err = keyring.Open(ctx, kc)
	if errors.Is(err, keyring.ErrMasterKey) {
		// A rotation of the master key that was interrupted after the database.
		old := kc.Master
		for _, kc.Master = range seal.Candidates(file) {
			if _, serr := keyring.Open(ctx, kc); serr == nil {
				if err := kc.Master.Promote(file); err != nil {
					return nil, err
				}
				old = kc.Master
				break
			}
		}
		kc.Master = old
	}
	kc.MasterAgain = func() []*seal.Master {
		others := seal.Candidates(file)
		if m, err := seal.ReadFile(file); err == nil {
			return append([]*seal.Master{m}, others...)
		}
		return others
	}
	return opened(ctx, kc, file)
}

func opened(ctx context.Context, kc keyring.Config, where string) (*keyring.Ring, error) {
	ring, err := keyring.Open(ctx, kc)
	if errors.Is(err, keyring.ErrMasterKey) {
		return nil, fmt.Errorf("%w", errors.Join(sallyport.Mistake(
			"keys.master", where, "it is not the master key that this database was sealed under",
			"Give the right one, from its backup; nothing was changed.",
		), err))
	}
	return ring, err
}

func masterKeyFile(cfg Config) (string, error) {
	if cfg.MasterKeyFile != "" {
		return cfg.MasterKeyFile, nil
	}
	if dir := cfg.DB.Dir(); dir != "" {
		return filepath.Join(dir, "master.key"), nil
	}
	return "", sallyport.Mistake("keys.master", "", "there is none", "Name a file, or give the key itself in SALLYPORT_KEYS_MASTER (Config.MasterKey). All nodes of a cluster share it.")
}

// RotateMaster seals everything under a new master key and puts it in the place
// of the file. The one before is kept as FILE.old: delete it once no backup of
// the database needs it.
func (s *Server) RotateMaster(ctx context.Context) (file string, err error) {
	if s.cfg.MasterKey != "" {
		return "", sallyport.Mistake("keys.master", "", "the key comes from the environment, which this program cannot change", "Put the key into a file (keys.master = FILE) to rotate it.")
	}
	if file, err = masterKeyFile(s.cfg); err != nil {
		return "", err
	}
	// The key is on disk before the database needs it: a crash between the two
	// steps is mended at the next start.
	next := seal.Generate()
	if err := next.Stage(file); err != nil {
		return "", err
	}
	if err := s.Keys.Rewrap(ctx, next, resealCertificates, totp.Reseal); err != nil {
		// Of two rotations at once one finds the other's key. Only when it is
		// certain that nothing is sealed under ours may it go.
		if errors.Is(err, keyring.ErrMasterKey) {
			err = errors.Join(&sallyport.Error{
				Status: http.StatusConflict, Code: "rotated_meanwhile",
				Message: "The master key was rotated by another process at the same time. Nothing was changed.",
			}, next.Unstage(file))
		}
		return "", err
	}
	// A later rotation may have been quicker: then the file is its business.
	fits, err := s.Keys.SealedUnder(ctx, next)
	if err != nil {
		return "", err
	}
	if !fits {
		return file, next.Unstage(file)
	}
	return file, next.Promote(file)
}

// rotateTick is how often it is asked whether a rotation is due: late by a tenth
// at most, except for the shortest periods, and not more often than is any use.
func rotateTick(every time.Duration) time.Duration {
	return min(max(every/10, time.Minute), time.Hour)
}

// rotateIfDue rotates the signing key when it has signed for long enough.
func (s *Server) rotateIfDue(ctx context.Context) error {
	k, rotated, err := s.Keys.RotateIfDue(ctx, s.cfg.RotateEvery)
	if rotated {
		s.cfg.Log.Info("the signing key was rotated on schedule", "kid", k.ID, "alg", string(k.Alg))
	}
	return err
}

// jwksAge is for how long others may use the public keys without asking again, and
// jwksWait how long the database is waited for to say whether they still are the keys.
const (
	jwksAge  = 5 * time.Minute
	jwksWait = time.Second
)

// keyRoutes publishes the public keys (RFC 7517). While the database is away they
// are answered from memory, for no longer than any cache between could have done it.
func (s *Server) keyRoutes() {
	s.api.Raw(huma.Operation{
		Method: http.MethodGet, Path: "/.well-known/jwks.json", Tags: []string{"Tokens"}, Summary: "Public keys",
		Description: "The keys that access tokens are signed with, as a JWK Set (RFC 7517). May be cached for five minutes.",
		Responses: map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{
			"application/jwk-set+json": {Schema: &huma.Schema{Type: huma.TypeObject, Properties: map[string]*huma.Schema{
				"keys": {Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}},
			}}},
		}}, "503": api.ErrorResponses(s.api, 503)["503"]},
	}, sallyport.Public(), func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), jwksWait)
		defer cancel()
		age := jwksAge
		_, err := s.Keys.SyncNow(ctx)
		if err != nil {
			if age -= s.cfg.Now().Sub(s.Keys.AsOf()); age >= time.Second && age <= jwksAge {
				err = nil
			}
		}
		var set *token.Set
		if err == nil {
			set, err = s.Keys.Set(ctx)
		}
		if err != nil {
			s.api.WriteError(w, r, err)
			return
		}
		w.Header().Set("Content-Type", "application/jwk-set+json")
		w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(age.Seconds())))
		_, _ = w.Write(set.JWKS())
	}, api.IgnoreCredentials())
}
