package audit

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// Prefix is where the desk lies beside the log's public read API.
const Prefix = "/.tallystick/"

// maxBody is the most bytes that an operator sends.
const maxBody = 64 << 10

// Handler serves a desk to operators who show the token whose SHA-256 is given:
//
//	GET  /.tallystick/export/SESSION?also=SESSION&as=ACT&detail=WORDS    a bundle, of further sessions too, also as often as there
//	     are any; what else than an export it is for, see [Desk.Bundle]
//	GET  /.tallystick/view/SESSION      the session as [Desk.View] shows it, ended or not; see [ParseView]
//	GET  /.tallystick/fields/SESSION    the names of its fields, one a line
//	GET  /.tallystick/disclose/SESSION?fields=F,F    a bundle in which those are shown and the others withheld; see [Desk.Disclose]
//	GET  /.tallystick/original/SESSION?field=F    a bundle in which its original is shown, sealed as it is; see [Desk.Unseal]
//	POST /.tallystick/search            a Page of sessions, in JSON, for the q, after and most of a form; see [Desk.Search]
//	GET  /.tallystick/index             how far the index has come: a Progress, in JSON
//	POST /.tallystick/reindex           has the index made again from the beginning
//	POST /.tallystick/keys              puts on record which keys sign for the log; the body says so
//	POST /.tallystick/rewrap            has the data keys sealed anew, and answers when that is done
//	POST /.tallystick/erase             erases what the Ordered in the body says, and tells the Fate of each session, a line each
//	POST /.tallystick/retain            erases what the rules of retention want erased by now, and tells likewise
//
// The headers Tallystick-Actor and Tallystick-Reason say who asks and why. Everybody who holds the token is an operator; the
// name that goes on record is the one the operator gives.
func Handler(d *Desk, token [sha256.Size]byte, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(w http.ResponseWriter, req *http.Request, who Asker) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			shown, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
			sum := sha256.Sum256([]byte(shown))
			if !ok || subtle.ConstantTimeCompare(sum[:], token[:]) != 1 {
				w.Header().Set("WWW-Authenticate", "Bearer")
				http.Error(w, "show the operator's token; it stands in operator.token in the log's data directory", http.StatusUnauthorized)
				return
			}
			who := Asker{Name: req.Header.Get("Tallystick-Actor"), Reason: req.Header.Get("Tallystick-Reason"), Roles: Operator}
			switch err := do(w, req, who); {
			case err == nil:
			case errors.Is(err, tlog.ErrNotFound):
				http.Error(w, err.Error(), http.StatusNotFound)
			case errors.Is(err, ErrRole):
				http.Error(w, err.Error(), http.StatusForbidden)
			case errors.Is(err, ErrNobody), errors.Is(err, ErrNoField), errors.Is(err, ErrNoBasis), errors.Is(err, errRequest), errors.Is(err, ErrQuery), errors.Is(err, ErrCursor):
				http.Error(w, err.Error(), http.StatusBadRequest)
			case errors.Is(err, ErrNoIndex):
				http.Error(w, err.Error(), http.StatusNotImplemented)
			case errors.Is(err, ErrOpen):
				w.Header().Set("Retry-After", "1")
				http.Error(w, err.Error(), http.StatusConflict)
			default:
				log.Error("a request to the desk failed", "path", req.URL.Path, "err", err)
				http.Error(w, "it failed: "+err.Error(), http.StatusInternalServerError)
			}
		})
	}
	handle("GET "+Prefix+"export/{session}", func(w http.ResponseWriter, req *http.Request, who Asker) error {
		id, err := record.ParseID(req.PathValue("session"))
		if err != nil {
			return fmt.Errorf("%w: %w", errRequest, err)
		}
		act := Export
		if as := req.URL.Query().Get("as"); as != "" {
			if act, err = ParseAct(as); err != nil {
				return err
			}
		}
		ids := []record.ID{id}
		for _, also := range req.URL.Query()["also"] {
			if id, err = record.ParseID(also); err != nil {
				return fmt.Errorf("%w: %w", errRequest, err)
			}
			if slices.Contains(ids, id) {
				return fmt.Errorf("%w: the session %s is named twice", errRequest, id)
			}
			ids = append(ids, id)
		}
		bundle, err := d.Bundle(req.Context(), who, act, req.URL.Query().Get("detail"), ids...)
		if err != nil {
			return err
		}
		return answer(w, "application/json", bundle)
	})
	handle("GET "+Prefix+"view/{session}", func(w http.ResponseWriter, req *http.Request, who Asker) error {
		id, err := record.ParseID(req.PathValue("session"))
		if err != nil {
			return fmt.Errorf("%w: %w", errRequest, err)
		}
		s, err := d.View(req.Context(), who, id, req.URL.Query().Get("detail"))
		if err != nil {
			return err
		}
		view, err := AppendView(nil, s)
		if err != nil {
			return err
		}
		return answer(w, "application/json", view)
	})
	handle("GET "+Prefix+"fields/{session}", func(w http.ResponseWriter, req *http.Request, who Asker) error {
		id, err := record.ParseID(req.PathValue("session"))
		if err != nil {
			return fmt.Errorf("%w: %w", errRequest, err)
		}
		names, err := d.Fields(req.Context(), who, id)
		if err != nil {
			return err
		}
		return answer(w, "text/plain; charset=utf-8", []byte(strings.Join(names, "\n")+"\n"))
	})
	handle("GET "+Prefix+"disclose/{session}", func(w http.ResponseWriter, req *http.Request, who Asker) error {
		id, err := record.ParseID(req.PathValue("session"))
		if err != nil {
			return fmt.Errorf("%w: %w", errRequest, err)
		}
		bundle, err := d.Disclose(req.Context(), who, id, strings.Split(req.URL.Query().Get("fields"), ",")...)
		if err != nil {
			return err
		}
		return answer(w, "application/json", bundle)
	})
	handle("GET "+Prefix+"original/{session}", func(w http.ResponseWriter, req *http.Request, who Asker) error {
		id, err := record.ParseID(req.PathValue("session"))
		if err != nil {
			return fmt.Errorf("%w: %w", errRequest, err)
		}
		bundle, err := d.Unseal(req.Context(), who, id, req.URL.Query().Get("field"))
		if err != nil {
			return err
		}
		return answer(w, "application/json", bundle)
	})
	handle("POST "+Prefix+"keys", func(w http.ResponseWriter, req *http.Request, who Asker) error {
		b, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
		if err != nil || len(b) == 0 {
			return fmt.Errorf("%w: the body says which keys there are, in %d bytes at most", errRequest, maxBody)
		}
		if err := d.Announce(req.Context(), who, string(b)); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	handle("POST "+Prefix+"rewrap", func(w http.ResponseWriter, req *http.Request, who Asker) error {
		said, err := d.Rewrap(req.Context(), who)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		io.WriteString(w, said)
		return nil
	})
	d.orders(handle)
	d.searches(handle)
	return mux
}

// answer sends content, which nobody on the way is to keep.
func answer(w http.ResponseWriter, kind string, b []byte) error {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Write(b)
	return nil
}

var errRequest = errors.New("audit: the request cannot be read")
