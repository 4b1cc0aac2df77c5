package assemble

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/search"
	"github.com/tallystick/tallystick/cmd/internal/config"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/tlog/record"
	"github.com/tallystick/tallystick/tlog/record/mask"
)

// searching is the index of sessions of a vault.
type searching struct {
	index *search.Index // nil for none, or where it was not opened
}

// open opens the index if it is not open; where none was begun, one is, if begin says so. Where there is to be none it destroys the one that
// lies in the usual place.
func (s *searching) open(c *config.Config, keys search.Keys, log *slog.Logger, begin bool) (err error) {
	dir := c.SearchDir()
	if s.index != nil || !c.HasGateway() {
		return nil
	}
	if dir == "" {
		// It would keep the words of what is erased from now on.
		return search.Remove(context.Background(), search.Config{Dir: c.UsualSearchDir(), Keys: keys, Log: log})
	}
	if _, err := os.Stat(filepath.Join(dir, search.KeyFile)); !begin && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s.index, err = search.Open(context.Background(), search.Config{Dir: dir, Keys: keys, Name: c.Gateway.ID + ".index", Log: log})
	return err
}

// forgets has a desk forget in the index what is erased.
func (s *searching) forgets(d *audit.Desk) {
	if s.index != nil {
		d.Forgets(s.index)
	}
}

// serves has a desk search in the index, for values by the masks that these make of them, and returns what has the index follow the
// log, which somebody runs.
func (s *searching) serves(d *audit.Desk, maskers []*mask.Masker) (follow func(context.Context) error) {
	if s.index == nil {
		return func(context.Context) error { return nil }
	}
	var masks []audit.Masker
	for _, m := range maskers {
		masks = append(masks, func(text string) string {
			b, _ := m.Text(nil, []byte(text))
			return string(b)
		})
	}
	d.Indexed(s.index, masks...)
	return func(ctx context.Context) error { return s.index.Run(ctx, d) }
}

// masksOf returns what masks the records of routes, each once.
func masksOf(routes []gateway.Route) (all []*mask.Masker) {
	for _, r := range routes {
		if r.Mask != nil && !slices.Contains(all, r.Mask) {
			all = append(all, r.Mask)
		}
	}
	return all
}

// close closes the index.
func (s *searching) close() error {
	if s.index == nil {
		return nil
	}
	return s.index.Close()
}

// SearchDesk makes a desk as [Vault.Desk] does, for searching in a log that nobody serves: the index is begun where there is none, and
// follow has it follow the log, beside Run.
func (v *Vault) SearchDesk(id string) (desk *audit.Desk, pen *record.Writer, follow func(context.Context) error, err error) {
	if v.c.SearchDir() == "" {
		return nil, nil, nil, audit.ErrNoIndex
	}
	maskers, err := readMaskers(v.c, v.refs)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := v.search.open(v.c, v.keys, v.env.Logger, true); err != nil {
		return nil, nil, nil, err
	}
	if desk, pen, err = v.Desk(id); err != nil {
		return nil, nil, nil, err
	}
	var masks []*mask.Masker
	for _, m := range maskers {
		masks = append(masks, m.mask)
	}
	return desk, pen, v.search.serves(desk, masks), nil
}
