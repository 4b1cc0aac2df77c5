package console

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/export"
	"github.com/tallystick/tallystick/tlog/record"
)

// form reads a form that is posted. The reason is the one that stands in it.
func (o *Console) form(v *visit) error {
	v.req.Body = http.MaxBytesReader(v.w, v.req.Body, 1<<20)
	if err := v.req.ParseForm(); err != nil {
		return fmt.Errorf("%w: %w", errAsked, err)
	}
	v.why = strings.TrimSpace(v.req.PostForm.Get("reason"))
	return goodReason(v.why)
}

// handing begins what hands something out.
func (o *Console) handing(v *visit) (id record.ID, err error) {
	if id, err = sessionID(v); err == nil {
		err = o.form(v)
	}
	return id, err
}

func (o *Console) export(v *visit) error {
	id, err := o.handing(v)
	if err != nil {
		return err
	}
	f, err := export.ParseFormat(v.req.PostForm.Get("format"))
	if err != nil {
		return fmt.Errorf("%w: %w", errAsked, err)
	}
	b, err := o.c.Desk.Bundle(v.req.Context(), v.asker(), f.Act(), "in the console", id)
	if err != nil {
		return err
	}
	name, kind, b, err := export.As(f, b, export.About{By: v.who.Name, Reason: v.why, At: o.now(), Software: o.c.Software, Policy: o.policy})
	if err != nil {
		return err
	}
	return v.attachment(name, kind, b)
}

func (o *Console) disclose(v *visit) error {
	id, err := o.handing(v)
	if err != nil {
		return err
	}
	b, err := o.c.Desk.Disclose(v.req.Context(), v.asker(), id, v.req.PostForm["field"]...)
	if err != nil {
		return err
	}
	return v.attachment(id.String()+".disclosed.bundle", "application/json", b)
}

func (o *Console) unseal(v *visit) error {
	id, err := o.handing(v)
	if err != nil {
		return err
	}
	b, err := o.c.Desk.Unseal(v.req.Context(), v.asker(), id, v.req.PostForm.Get("field"))
	if err != nil {
		return err
	}
	return v.attachment(id.String()+".original.bundle", "application/json", b)
}

// An erasePage says what would become of a session, or what became of it.
type erasePage struct {
	ID    record.ID
	Fate  audit.Fate
	May   bool // it can be erased
	Held  bool // there is something of it
	Done  bool // it was tried
	Basis string
}

// erasing says what would be erased, which is a reading too, and asks for the ground.
func (o *Console) erasing(v *visit) error {
	id, err := sessionID(v)
	if err != nil {
		return err
	}
	page := erasePage{ID: id}
	page.Fate, err = o.fate(v, audit.Order{Sessions: []record.ID{id}, Basis: "none yet: it is only asked what would be", Try: true})
	if err != nil {
		return err
	}
	page.May = page.Fate.Fate == audit.Would
	page.Held = page.May || page.Fate.Fate == audit.Kept
	return o.show(v, http.StatusOK, "erase", "Erase a session", page)
}

func (o *Console) erase(v *visit) error {
	id, err := o.handing(v)
	if err != nil {
		return err
	}
	if v.req.PostForm.Get("sure") != "yes" {
		return errSure
	}
	page := erasePage{ID: id, Done: true, Basis: strings.TrimSpace(v.req.PostForm.Get("basis"))}
	if len(page.Basis) > maxWhy {
		return fmt.Errorf("%w: a legal basis is text of at most %d bytes", errAsked, maxWhy)
	}
	if page.Fate, err = o.fate(v, audit.Order{Sessions: []record.ID{id}, Basis: page.Basis}); err != nil {
		return err
	}
	status := http.StatusOK
	if page.Fate.Fate != audit.Erased && page.Fate.Fate != audit.Already {
		status = http.StatusConflict
	}
	return o.show(v, status, "erase", "Erase a session", page)
}

// fate gives an order about one session.
func (o *Console) fate(v *visit, order audit.Order) (f audit.Fate, err error) {
	err = o.c.Desk.Erase(v.req.Context(), v.asker(), order, func(one audit.Fate) error { f = one; return nil })
	if err == nil && f.Fate == "" {
		err = errors.New("the desk did not say what became of the session")
	}
	return f, err
}
