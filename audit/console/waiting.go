package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tallystick/tallystick/tlog"
)

// errNoApprovals says that there is nobody to decide anything here.
var errNoApprovals = fmt.Errorf("%w: no approvals are decided in this console", errNoPage)

// A waitingPage is what waits.
type waitingPage struct {
	List []Approval
	Mine int // of them one's own
}

func (o *Console) approvals(v *visit) error {
	if o.c.Approvals == nil {
		return errNoApprovals
	}
	list, err := o.c.Approvals.List(v.req.Context(), v.who)
	if err != nil {
		return err
	}
	page := waitingPage{List: list}
	for _, a := range list {
		if a.Yours {
			page.Mine++
		}
	}
	return o.show(v, http.StatusOK, "approvals", "Approvals", page, "approvals.js")
}

// An approvalPage is one call that waits, with all of it.
type approvalPage struct {
	Approval
	Body       part
	Prev, Next string // where other parts of it are; "" for none
	Decided    string
}

func (o *Console) approval(v *visit) error {
	if o.c.Approvals == nil {
		return errNoApprovals
	}
	id, err := sessionID(v)
	if err != nil {
		return err
	}
	a, err := o.c.Approvals.Look(v.req.Context(), v.who, id)
	if err != nil {
		return err
	}
	return o.showApproval(v, a, "")
}

func (o *Console) showApproval(v *visit, a Approval, decided string) error {
	page := approvalPage{Approval: a, Decided: decided}
	if a.Request != nil {
		// Whoever decides can see all of it. What few people read to the end is on pages of its own, each a look that is on record.
		n, _ := strconv.Atoi(v.req.URL.Query().Get("part"))
		page.Body = partOfSize(a.Request.Body, n, approvalPart)
		if page.Body.N > 1 {
			page.Prev = fmt.Sprintf("?part=%d", page.Body.N-1)
		}
		if page.Body.N < page.Body.Of {
			page.Next = fmt.Sprintf("?part=%d", page.Body.N+1)
		}
	}
	return o.show(v, http.StatusOK, "approval", "A call that waits", page, "approvals.js")
}

const approvalPart = 1 << 20 // bytes of a body that is decided about, on one page

const (
	maxDecision = 2000 // bytes of the reason for a decision
	minGlass    = 10   // and at least these where the glass is broken
)

func (o *Console) decide(v *visit) error {
	if o.c.Approvals == nil {
		return errNoApprovals
	}
	id, err := sessionID(v)
	if err != nil {
		return err
	}
	v.req.Body = http.MaxBytesReader(v.w, v.req.Body, 64<<10)
	if err := v.req.ParseForm(); err != nil {
		return fmt.Errorf("%w: %w", errAsked, err)
	}
	what, why := v.req.PostForm.Get("decision"), strings.TrimSpace(v.req.PostForm.Get("reason"))
	switch {
	case what != Approve && what != Deny && what != BreakGlass:
		return fmt.Errorf("%w: a decision is one of approve, deny, break_glass", errAsked)
	case len(why) > maxDecision || !utf8.ValidString(why):
		return fmt.Errorf("%w: a reason is text of at most %d bytes", errAsked, maxDecision)
	case what != Approve && why == "", what == BreakGlass && len(why) < minGlass:
		return fmt.Errorf("%w: whoever denies gives a reason, and whoever breaks the glass one that others understand", errWhy)
	}
	a, err := o.c.Approvals.Decide(v.req.Context(), v.who, id, what, why)
	if err != nil {
		return err
	}
	a.Request = nil
	return o.showApproval(v, a, what)
}

// beat is how often a stream of changes says that it is there, and looks whether whoever reads it is still signed in.
const beat = 15 * time.Second

// A waits is a call that waits as the module on the page is told of it: text, which it writes as text.
type waits struct {
	ID      string    `json:"id"`
	State   string    `json:"state"`
	Open    bool      `json:"open"`
	Yours   bool      `json:"yours"`
	Caller  string    `json:"caller"`
	Route   string    `json:"route"`
	Model   string    `json:"model"`
	Rule    string    `json:"rule"`
	Message string    `json:"message"`
	Need    int       `json:"need"`
	Yes     int       `json:"yes"` // how many have said it
	Asked   time.Time `json:"asked"`
	Until   time.Time `json:"until"`
}

// changes is a stream of events (text/event-stream): each is the whole list, as it is after a change.
func (o *Console) changes(v *visit) error {
	if o.c.Approvals == nil {
		return errNoApprovals
	}
	v.w.Header().Set("Content-Type", "text/event-stream")
	if v.req.Method == http.MethodHead {
		return nil
	}
	v.w.Header().Set("X-Accel-Buffering", "no")
	ctx, cancel := context.WithCancel(v.req.Context())
	defer cancel()
	changed := o.c.Approvals.Changes(ctx)
	rc := http.NewResponseController(v.w)
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for first := true; ; first = false {
		said := ": nothing new\n\n"
		if !first {
			select {
			case <-ctx.Done():
				return nil
			case _, ok := <-changed:
				if !ok {
					return nil // the browser comes again
				}
				first = true
			case <-tick.C:
			}
			// Whoever was signed out meanwhile sees nothing more.
			if who, ok := o.c.SignIn.Who(v.req); !ok || who.Name != v.who.Name || who.Roles != v.who.Roles {
				return nil
			}
		}
		if first {
			list, err := o.c.Approvals.List(ctx, v.who)
			if err != nil {
				if !errors.Is(err, context.Canceled) && !errors.Is(err, tlog.ErrClosed) {
					o.log.Error("what waits could not be listed", "by", v.who.Name, "err", err)
				}
				return nil
			}
			all := []waits{}
			for _, a := range list {
				all = append(all, waits{a.ID.String(), a.State, a.Open, a.Yours, shownText(who(a.Caller, a.Email)), shownText(a.Route), shownText(a.Model), shownText(a.Rule), shownText(a.Message), a.Need, len(a.Yes), a.Asked, a.Until})
			}
			b, err := json.Marshal(all)
			if err != nil {
				return nil
			}
			said = "event: waiting\ndata: " + string(b) + "\n\n"
		}
		rc.SetWriteDeadline(time.Now().Add(2 * beat)) // whatever the server's own is
		if _, err := v.w.Write([]byte(said)); err != nil || rc.Flush() != nil {
			return nil
		}
	}
}
