package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/tallystick/tallystick/tlog"
)

// Progress is how far an index has come.
type Progress struct {
	Indexed uint64 `json:"indexed"` // it has the entries before this one
	Size    uint64 `json:"size"`    // of the log
}

// Progress says how far the index has come. It tells nothing of any record, and stands on none.
func (d *Desk) Progress(ctx context.Context) (p Progress, err error) {
	if d.index == nil {
		return p, ErrNoIndex
	}
	page, err := d.index.Find(ctx, nil, "", 1)
	if err != nil {
		return p, fmt.Errorf("search: %w", err)
	}
	p.Indexed = page.Indexed
	if p.Size, err = d.size(ctx); errors.Is(err, tlog.ErrNotFound) {
		err = nil // nothing is published yet
	}
	return p, err
}

// searches serves POST search and reindex, and GET index. What is looked for stands in no address, which whoever passes requests on writes
// down.
func (d *Desk) searches(handle func(pattern string, do func(w http.ResponseWriter, req *http.Request, who Asker) error)) {
	asJSON := func(w http.ResponseWriter, v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return answer(w, "application/json", append(b, '\n'))
	}
	handle("POST "+Prefix+"search", func(w http.ResponseWriter, req *http.Request, who Asker) error {
		req.Body = http.MaxBytesReader(w, req.Body, maxBody)
		if err := req.ParseForm(); err != nil {
			return fmt.Errorf("%w: the body is a form of at most %d bytes", errRequest, maxBody)
		}
		form := req.PostForm
		q := Query{Text: form.Get("q"), After: form.Get("after")}
		if most := form.Get("most"); most != "" {
			n, err := strconv.Atoi(most)
			if err != nil || n < 1 {
				return fmt.Errorf("%w: most is a number from 1 to %d", errRequest, MaxHits)
			}
			q.Most = n
		}
		p, err := d.Search(req.Context(), who, q)
		if err != nil {
			return err
		}
		return asJSON(w, p)
	})
	handle("GET "+Prefix+"index", func(w http.ResponseWriter, req *http.Request, who Asker) error {
		p, err := d.Progress(req.Context())
		if err != nil {
			return err
		}
		return asJSON(w, p)
	})
	handle("POST "+Prefix+"reindex", func(w http.ResponseWriter, req *http.Request, who Asker) error {
		if err := d.Reindex(req.Context(), who); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}
