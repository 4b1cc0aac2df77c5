package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// MaxOrdered is how many sessions one order that comes by HTTP can name.
const MaxOrdered = 1000

// An Ordered is an order as it comes by HTTP, in JSON.
type Ordered struct {
	Sessions []record.ID `json:"sessions,omitempty"`
	Caller   string      `json:"caller,omitempty"`
	Before   time.Time   `json:"before,omitzero"`
	Basis    string      `json:"basis,omitempty"`
	Try      bool        `json:"try,omitempty"`
	Purge    bool        `json:"purge,omitempty"` // have the log's disk purged at the end, before it is answered
}

// ParseOrdered reads an order: one JSON object without members that are not known.
func ParseOrdered(b []byte) (o Ordered, err error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		return o, fmt.Errorf("%w: %w", errRequest, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return o, fmt.Errorf("%w: something follows the order", errRequest)
	}
	if len(o.Sessions) > MaxOrdered {
		return o, fmt.Errorf("%w: %d sessions; name at most %d at once", errRequest, len(o.Sessions), MaxOrdered)
	}
	for _, id := range o.Sessions {
		if id.IsZero() {
			return o, fmt.Errorf("%w: a session without an id", errRequest)
		}
	}
	return o, nil
}

// A Last is the last line of an answer to an order. Without one, the answer was cut off.
type Last struct {
	Done   bool   `json:"done"`             // everything was gone through; what became of each stands in its line
	Purged bool   `json:"purged,omitempty"` // the bytes are off the log's disk
	Error  string `json:"error,omitempty"`
}

// orders serves POST erase and POST retain. An answer is a line of JSON for each session, as it goes, and a Last.
func (d *Desk) orders(handle func(pattern string, do func(w http.ResponseWriter, req *http.Request, who Asker) error)) {
	serve := func(name string, do func(ctx context.Context, who Asker, o Ordered, each func(Fate) error) error) {
		handle("POST "+Prefix+name, func(w http.ResponseWriter, req *http.Request, who Asker) error {
			b, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
			if err != nil {
				return fmt.Errorf("%w: an order has at most %d bytes", errRequest, maxBody)
			}
			o, err := ParseOrdered(b)
			if err != nil {
				return err
			}
			begun := false
			line := func(v any) error {
				b, err := json.Marshal(v)
				if err != nil {
					return err
				}
				if !begun {
					w.Header().Set("Content-Type", "application/x-ndjson")
					w.Header().Set("Cache-Control", "no-store")
					w.Header().Set("X-Content-Type-Options", "nosniff")
					begun = true
				}
				if _, err = w.Write(append(b, '\n')); err != nil {
					return err
				}
				if err := http.NewResponseController(w).Flush(); !errors.Is(err, http.ErrNotSupported) {
					return err
				}
				return nil
			}
			if err = do(req.Context(), who, o, func(f Fate) error { return line(f) }); err != nil && !begun {
				return err
			}
			last := Last{Done: err == nil}
			if err == nil && o.Purge && !o.Try {
				err = d.Purge(req.Context())
				last.Purged = err == nil
			}
			if err != nil && !errors.Is(err, ErrNoPurge) {
				last.Error = err.Error()
			}
			return line(last)
		})
	}
	serve("erase", func(ctx context.Context, who Asker, o Ordered, each func(Fate) error) error {
		return d.Erase(ctx, who, Order{Sessions: o.Sessions, Caller: o.Caller, Before: o.Before, Basis: o.Basis, Try: o.Try}, each)
	})
	serve("retain", func(ctx context.Context, who Asker, o Ordered, each func(Fate) error) error {
		if len(o.Sessions) > 0 || o.Caller != "" || !o.Before.IsZero() || o.Basis != "" {
			return fmt.Errorf("%w: what retention erases is told by its rules", errRequest)
		}
		return d.Retain(ctx, who, o.Try, each)
	})
}
