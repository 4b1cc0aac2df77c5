package assemble

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/keys/ring"
)

// dataKeys are the keys of records, as rooms know them and as an operator does.
type dataKeys struct {
	ring.ByName
	keks []KEK
}

// Rewrap moves the ring to a new epoch and says, a line each, what was moved and which keys above the ring it needs now. What
// it does not name opens nothing that the ring has.
func (d dataKeys) Rewrap(ctx context.Context) (said string, err error) {
	m, err := d.Ring.Rewrap(ctx)
	moved := fmt.Sprintf("epoch %d: %d data keys in %d segments are sealed anew", m.Epoch, m.Keys, m.Segments)
	if err != nil {
		if m.Segments > 0 {
			err = fmt.Errorf("%s; then: %w", moved, err)
		}
		return "", err
	}
	needs, err := d.Ring.Needed(ctx)
	if err != nil {
		return "", fmt.Errorf("%s; then: %w", moved, err)
	}
	var b strings.Builder
	fmt.Fprintln(&b, moved)
	for _, n := range needs {
		i := slices.IndexFunc(d.keks, func(k KEK) bool { return k.Wrapper == n.KEK })
		fmt.Fprintf(&b, "needed: %s", d.keks[i].Ref)
		if n.Version > 0 {
			fmt.Fprintf(&b, ", version %d", n.Version)
		}
		fmt.Fprintln(&b)
	}
	return b.String(), nil
}
