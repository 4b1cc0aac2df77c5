package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/record/original"
	"github.com/tallystick/tallystick/verify"
)

func (t *tally) unseal(ctx context.Context, args []string) error {
	fs := t.flags("unseal SESSION --identity FILE --reason TEXT [--field request.body] [-o FILE]", `Writes what was sent or answered before it was masked, to the byte. It is sealed to the
recipients that the configuration names, and only who has the identity of one, made with
age-keygen, can open it. The identity is used here and goes nowhere else. That the original was
unsealed, by whom and why, goes on record first, and a reason must be given.`)
	var s source
	identityFile := fs.String("identity", "", "the `file` with the identity, as age-keygen writes it")
	field := fs.String("field", "", "the `name` of the field whose original it is, where there are several")
	out := fs.String("o", "", "the `file` to write; by default to standard output")
	who := s.flags(fs, "")
	rest, err := parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	id, err := record.ParseID(rest[0])
	switch {
	case err != nil:
		return cli.Usagef("unseal: %v", err)
	case *identityFile == "":
		return cli.Usagef("unseal: name the file with your identity with --identity")
	case strings.TrimSpace(who.Reason) == "":
		return cli.Usagef("unseal: say why with --reason; it goes on record")
	}
	identity, err := readIdentity(*identityFile) // before anything is on record
	if err != nil {
		return fmt.Errorf("unseal: %w", err)
	}
	path := "original/" + id.String() + "?field=" + url.QueryEscape(*field)
	bundle, err := t.ask(ctx, &s, *who, id, path, func(ctx context.Context, desk *audit.Desk) ([]byte, error) {
		return desk.Unseal(ctx, *who, id, *field)
	})
	if err != nil {
		return fmt.Errorf("unseal: %w", err)
	}
	name, sealed, err := sealedIn(bundle)
	if err != nil {
		return fmt.Errorf("unseal: %w", err)
	}
	exact, err := identity.Open(sealed)
	if err != nil {
		return fmt.Errorf("unseal: %s: %w", name, err)
	}
	switch {
	case *out != "" && *out != "-":
		if err := os.WriteFile(*out, exact, 0o600); err != nil {
			return fmt.Errorf("unseal: %w", err)
		}
		fmt.Fprintf(t.stderr, "wrote %s, %d bytes, the original of %s\n", *out, len(exact), name)
	case t.terminal && !record.IsText(exact):
		return errors.New("unseal: the original is no text and not for a terminal; name a file with -o")
	case t.terminal:
		fmt.Fprintln(t.stdout, printable(string(exact)))
	default:
		_, err = t.stdout.Write(exact)
	}
	return err
}

func readIdentity(path string) (original.Identity, error) {
	f, err := os.Open(path)
	if err != nil {
		return original.Identity{}, err
	}
	defer f.Close()
	id, err := original.ParseIdentity(f)
	if err != nil {
		return original.Identity{}, fmt.Errorf("%s: %w", path, err)
	}
	return id, nil
}

// sealedIn returns the one original that a bundle shows, and the name of the field that it is the original of.
func sealedIn(raw []byte) (name string, sealed []byte, err error) {
	b, err := verify.Parse(raw)
	if err != nil {
		return "", nil, err
	}
	for _, s := range b.Sessions {
		for _, e := range s.Entries {
			st, err := record.ParseEntry(e.Bytes)
			if err != nil {
				return "", nil, fmt.Errorf("entry %d: %w", e.Index, err)
			}
			for _, f := range e.Fields {
				if f.Shown == nil {
					continue
				}
				of, ok := strings.CutPrefix(f.Shown.Name, record.FieldOriginal)
				if !ok || name != "" {
					return "", nil, errors.New("the desk shows something else than one original")
				}
				name, sealed = string(st.Kind)+"."+of, f.Shown.Value
			}
		}
	}
	if name == "" {
		return "", nil, errors.New("the desk shows no original")
	}
	return name, sealed, nil
}
