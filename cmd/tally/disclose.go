package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/verify"
)

func (t *tally) disclose(ctx context.Context, args []string) error {
	fs := t.flags("disclose SESSION --fields NAME,NAME [-o FILE] | disclose SESSION --list", `Writes a bundle that proves the fields which are named and withholds all others: of those it
has a hash over a salt that it does not have, so that neither what stands in them nor how long
it is can be told or guessed. How many fields there are can be seen, and what the log's entries
say to everybody. Which fields were shown, who asked and why, goes on record first.

A field is request.NAME, response.NAME, refused.NAME, approval.NAME or erasure.NAME, or NAME
alone where only one record has it. Several approvals are approval-1.NAME, approval-2.NAME, ….
request.* is all of the request, request.caller.* all whose names begin so.`)
	var s source
	fields := fs.String("fields", "", "the `names` of the fields to show, with commas between them")
	list := fs.Bool("list", false, "print the names of all fields that the session has, and write nothing")
	out := fs.String("o", "", "the `file` to write; by default SESSION.disclosed.bundle")
	who := s.flags(fs, "disclosed on the command line")
	rest, err := parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	if *list == (*fields != "") {
		return cli.Usagef("disclose: say which fields with --fields, or ask which there are with --list")
	}
	id, err := record.ParseID(rest[0])
	if err != nil {
		return cli.Usagef("disclose: %v", err)
	}
	if *list {
		names, err := t.ask(ctx, &s, *who, id, "fields/"+id.String(), func(ctx context.Context, desk *audit.Desk) ([]byte, error) {
			names, err := desk.Fields(ctx, *who, id)
			return []byte(strings.Join(names, "\n") + "\n"), err
		})
		if err != nil {
			return fmt.Errorf("disclose: %w", err)
		}
		_, err = fmt.Fprint(t.stdout, printable(string(names)))
		return err
	}
	asked := strings.ReplaceAll(*fields, " ", "") // no name has one
	path := "disclose/" + id.String() + "?fields=" + url.QueryEscape(asked)
	bundle, err := t.ask(ctx, &s, *who, id, path, func(ctx context.Context, desk *audit.Desk) ([]byte, error) {
		return desk.Disclose(ctx, *who, id, strings.Split(asked, ",")...)
	})
	if err != nil {
		return fmt.Errorf("disclose: %w", err)
	}
	shown, withheld, err := inBundle(bundle)
	if err != nil {
		return fmt.Errorf("disclose: %w", err)
	}
	if *out == "" {
		*out = id.String() + ".disclosed.bundle"
	}
	if *out == "-" {
		_, err := t.stdout.Write(bundle)
		return err
	}
	if err := os.WriteFile(*out, bundle, 0o600); err != nil {
		return fmt.Errorf("disclose: %w", err)
	}
	fmt.Fprintf(t.stderr, "wrote %s, %d bytes. It shows %s\nand withholds %d others; check it with: tally-verify bundle %s --policy POLICY\n", *out, len(bundle), strings.Join(shown, " "), withheld, *out)
	return nil
}

// inBundle says which fields a bundle shows, and how many it withholds.
func inBundle(raw []byte) (shown []string, withheld int, err error) {
	b, err := verify.Parse(raw)
	if err != nil {
		return nil, 0, err
	}
	for _, s := range b.Sessions {
		for _, e := range s.Entries {
			st, err := record.ParseEntry(e.Bytes)
			if err != nil {
				return nil, 0, fmt.Errorf("entry %d: %w", e.Index, err)
			}
			for _, f := range e.Fields {
				if f.Shown == nil {
					withheld++
					continue
				}
				shown = append(shown, string(st.Kind)+"."+f.Shown.Name)
			}
		}
	}
	return shown, withheld, nil
}
