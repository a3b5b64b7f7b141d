package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sallyport/sallyport/authn/token"
	"github.com/sallyport/sallyport/internal/seal"
)

type keyCmd struct {
	List         keyListCmd         `cmd:"" help:"List signing keys."`
	Rotate       keyRotateCmd       `cmd:"" help:"Let the next key sign. Nobody is signed out."`
	Import       keyImportCmd       `cmd:"" help:"Take a signing key that was made elsewhere."`
	Retire       keyRetireCmd       `cmd:"" help:"Refuse a key from now on. Access tokens that it signed are dead."`
	RotateMaster keyRotateMasterCmd `cmd:"" help:"Seal all keys under a new master key."`
}

type keyListCmd struct{}

func (keyListCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		keys, err := o.Keys.List(a.ctx)
		if err != nil {
			return err
		}
		return a.answer("keys/v1", keys, func(w io.Writer) {
			fmt.Fprintln(w, "KID\tALG\tSTATE\tCREATED\tRETIRES")
			for _, k := range keys {
				retires := "-"
				if k.RetireAt != nil {
					retires = k.RetireAt.Format(time.RFC3339)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", k.ID, k.Alg, k.State, k.Created.Format(time.RFC3339), retires)
			}
		})
	})
}

type keyRotateCmd struct{}

func (keyRotateCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		k, err := o.Keys.Rotate(a.ctx)
		if err != nil {
			return err
		}
		a.done("key %s signs from now on", k.ID)
		return a.answer("key/v1", k, func(w io.Writer) { fmt.Fprintln(w, k.ID) })
	})
}

type keyImportCmd struct {
	File   string `arg:"" help:"File with the private key: PEM, a JWK, or the bytes of a secret. Nobody but its owner may read it."`
	Alg    string `help:"Algorithm of the key, if it must be said: HS256 for a secret." placeholder:"ALG"`
	Active bool   `help:"Sign with it at once, instead of after the next rotation."`
}

func (c keyImportCmd) Run(a *app) error {
	if c.Alg != "" {
		if err := token.Alg(c.Alg).Check(); err != nil {
			return &errUsage{fmt.Errorf("--alg: %s", strings.TrimPrefix(err.Error(), "token: "))}
		}
	}
	b, err := seal.ReadPrivate(c.File, token.MaxKeyFile)
	if exposed, ok := errors.AsType[*seal.ExposedError](err); ok {
		err = fmt.Errorf("%w, and make another key if somebody did. Nothing was imported", exposed)
	}
	if err != nil {
		return &errUsage{err}
	}
	key, err := token.ReadKey(b, token.Alg(c.Alg))
	if err != nil {
		return &errUsage{fmt.Errorf("%s: %w", c.File, err)}
	}
	return a.with(func(o *opened) error {
		k, err := o.Keys.Import(a.ctx, key, c.Active)
		if err != nil {
			return err
		}
		when := "signs after the next rotation (sallyport key rotate)"
		if c.Active {
			when = "signs from now on"
		}
		a.done("key %s is imported and %s", k.ID, when)
		if !a.g.DryRun {
			a.info("%s is not needed any more: delete it, or keep it as safe as the master key.", c.File)
		}
		return a.answer("key/v1", k, func(w io.Writer) { fmt.Fprintln(w, k.ID) })
	})
}

type keyRetireCmd struct {
	KID string `arg:"" name:"kid" help:"Id of the key (sallyport key list)."`
}

func (c keyRetireCmd) Run(a *app) error {
	return a.with(func(o *opened) error {
		if err := a.confirm("Retiring key " + c.KID); err != nil {
			return err
		}
		if err := o.Keys.Retire(a.ctx, c.KID); err != nil {
			return err
		}
		a.done("key %s is retired", c.KID)
		return a.data("key_retirement/v1", map[string]string{"kid": c.KID})
	})
}

type keyRotateMasterCmd struct{}

func (keyRotateMasterCmd) Run(a *app) error {
	if a.g.DryRun {
		return &errUsage{errors.New("rotate-master writes files and has no dry run")}
	}
	return a.with(func(o *opened) error {
		file, err := o.RotateMaster(a.ctx)
		if err != nil {
			return err
		}
		a.done("a new master key is in %s; the one before is kept as %s.old\nGive the new file to every other node. Delete the old one when no backup of the database needs it.", file, file)
		return a.data("master_key/v1", map[string]string{"file": file, "old": file + ".old"})
	})
}
