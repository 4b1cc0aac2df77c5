package audit

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/tallystick/tallystick/tlog"
	"github.com/tallystick/tallystick/tlog/record"
)

// Prefix is where the desk lies beside the log's public read API.
const Prefix = "/.tallystick/"

// Handler serves a desk to operators who show the token whose SHA-256 is given:
//
//	GET /.tallystick/export/SESSION    a bundle; the headers Tallystick-Actor and Tallystick-Reason say who asks and why
//
// Everybody who holds the token is an operator; the name that goes on record is the one the operator gives.
func Handler(d *Desk, token [sha256.Size]byte, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Prefix+"export/{session}", func(w http.ResponseWriter, req *http.Request) {
		shown, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
		sum := sha256.Sum256([]byte(shown))
		if !ok || subtle.ConstantTimeCompare(sum[:], token[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "show the operator's token; it stands in operator.token in the log's data directory", http.StatusUnauthorized)
			return
		}
		id, err := record.ParseID(req.PathValue("session"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		bundle, err := d.Export(req.Context(), Asker{Name: req.Header.Get("Tallystick-Actor"), Reason: req.Header.Get("Tallystick-Reason")}, id)
		switch {
		case errors.Is(err, tlog.ErrNotFound):
			http.Error(w, err.Error(), http.StatusNotFound)
		case errors.Is(err, ErrNobody):
			http.Error(w, err.Error(), http.StatusBadRequest)
		case errors.Is(err, ErrOpen):
			w.Header().Set("Retry-After", "1")
			http.Error(w, err.Error(), http.StatusConflict)
		case err != nil:
			log.Error("an export failed", "session", id, "err", err)
			http.Error(w, "the export failed: "+err.Error(), http.StatusInternalServerError)
		default:
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", strconv.Itoa(len(bundle)))
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			w.Write(bundle)
		}
	})
	return mux
}
