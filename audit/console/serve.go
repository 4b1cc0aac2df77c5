package console

import (
	"errors"
	"net/http"
)

// ErrGone says that a call does not wait any more, or never did: look at the list again.
var ErrGone = errors.New("there is no such call waiting that is yours to decide; it may have been decided, or be too late")

// ErrNotYours says that others decide: ask them.
var ErrNotYours = errors.New("your own call is not yours to decide; others are asked")

// A Console serves the pages. Safe for concurrent use. Its streams of events end with their request, so a server that is to stop has
// a BaseContext that ends.
type Console struct{ c Config }

// New returns a console. It fails where something is missing that it cannot be without.
func New(c Config) (*Console, error) {
	switch {
	case c.Desk == nil, c.Log == nil, c.SignIn == nil:
		return nil, errors.New("console: there is no console without a desk, a log and a way to sign in")
	case len(c.Hosts) == 0:
		return nil, errors.New("console: it is not told by which names it is reached")
	}
	return &Console{c: c}, nil
}

// ServeHTTP serves a page.
func (c *Console) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	http.Error(w, "there is nothing here yet", http.StatusNotImplemented)
}
