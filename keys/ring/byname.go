package ring

import (
	"context"
	"errors"
	"fmt"

	"github.com/tallystick/tallystick/tlog"
)

// ByName is a ring for rooms that know a data key by a name and no more: the name is the text of its [ID].
type ByName struct{ Ring *Ring }

// New takes a key from the stock; see [Ring.New]. Who is done with it may clear it.
func (n ByName) New(ctx context.Context) (name string, key []byte, err error) {
	id, k, err := n.Ring.New(ctx)
	if err != nil {
		return "", nil, err
	}
	return id.String(), k.Bytes(), nil
}

// Erase destroys the key of that name; see [Ring.Erase].
func (n ByName) Erase(ctx context.Context, name string) error {
	id, err := ParseID(name)
	if err != nil {
		return err
	}
	return n.Ring.Erase(ctx, id)
}

// Open returns the key of that name; see [Ring.Open]. Who is done with it may clear it. Of a key that was erased the
// error is tlog.ErrNotFound as well.
func (n ByName) Open(ctx context.Context, name string) (key []byte, err error) {
	id, err := ParseID(name)
	if err != nil {
		return nil, err
	}
	k, err := n.Ring.Open(ctx, id)
	if errors.Is(err, ErrErased) {
		err = fmt.Errorf("%w: %w", err, tlog.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return k.Bytes(), nil
}
