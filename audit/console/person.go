package console

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/tlog"
)

// A whyPage asks somebody why he looks.
type whyPage struct {
	Last string // what he said the last time
	Back string
}

// askWhy asks somebody who has not said why he looks, before he sees anything. Nothing was read.
func (o *Console) askWhy(v *visit) {
	if accept := v.req.Header.Get("Accept"); v.req.Method != http.MethodGet || accept != "" && !strings.Contains(accept, "text/html") {
		o.fail(v, errWhy)
		return
	}
	o.done(v, o.show(v, http.StatusPreconditionRequired, "why", "Why are you looking?", whyPage{Last: o.c.Why, Back: v.req.URL.RequestURI()}))
}

// reason keeps why somebody looks from now on.
func (o *Console) reason(v *visit) error {
	if err := o.form(v); err != nil {
		return err
	}
	o.keepReason(v, v.why)
	http.Redirect(v.w, v.req, local(v.req.PostForm.Get("back")), http.StatusSeeOther)
	return nil
}

// me says who somebody is here, and lets him say why he looks; afterwards he goes back to where he was.
func (o *Console) me(v *visit) error {
	back := "/me"
	if from := v.req.URL.Query().Get("back"); from != "" {
		back = local(from)
	}
	return o.show(v, http.StatusOK, "me", "Who you are here", back)
}

func (o *Console) settings(v *visit) error {
	var all []Setting
	if o.c.Settings != nil {
		all = o.c.Settings()
	}
	return o.show(v, http.StatusOK, "settings", "Settings", all)
}

const (
	trailPage = 100
	trailRead = 1000 // of which those of one person are looked for
)

// A trailList is who read what.
type trailList struct {
	All    []audit.Reading
	Person string
	What   string
	Read   int // how many were looked through
	Next   string
}

func (o *Console) trail(v *visit) error {
	q := v.req.URL.Query()
	page := trailList{Person: strings.TrimSpace(q.Get("person")), What: strings.TrimSpace(q.Get("what"))}
	before, _ := strconv.ParseUint(q.Get("before"), 10, 63)
	most := trailPage
	if page.Person != "" || page.What != "" {
		most = trailRead
	}
	all, next, err := o.c.Desk.Trail(v.req.Context(), v.asker(), before, most)
	if err != nil && !errors.Is(err, tlog.ErrNotFound) { // nothing is published yet
		return err
	}
	page.Read = len(all)
	for _, r := range all {
		if page.Person != "" && !strings.Contains(strings.ToLower(r.Actor), strings.ToLower(page.Person)) ||
			page.What != "" && !strings.Contains(strings.ToLower(r.What+" "+string(r.Kind)+" "+r.Reason+" "+r.Session.String()), strings.ToLower(page.What)) {
			continue
		}
		page.All = append(page.All, r)
	}
	if next > 0 {
		on := url.Values{"before": {strconv.FormatUint(next, 10)}}
		if page.Person != "" {
			on.Set("person", page.Person)
		}
		if page.What != "" {
			on.Set("what", page.What)
		}
		page.Next = "/trail?" + on.Encode()
	}
	return o.show(v, http.StatusOK, "trail", "Who read what", page)
}
