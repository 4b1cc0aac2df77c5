// Package tiles carries a log's checkpoints and tiles to those who verify it: over HTTP, by the API of
// c2sp.org/tlog-tiles ([Handler], [FromURL]), and as a directory in the same layout ([FromDir], [Copy]).
//
// Nothing here verifies anything: both ends are Readers, and what a Reader returns is believed by nobody until it has
// been hashed up to a signed checkpoint. What is always true is that a path has one meaning and one spelling. What is
// served under it once is served under it for ever, or else must not be stored; and nothing beyond the published
// checkpoint is served at all.
//
// Beside the API of C2SP a log that keeps its earlier checkpoints serves them too:
//
//	GET <prefix>/checkpoints?after=<N>   the sizes of at most 1,000 kept checkpoints above N, ascending, one a line
//	GET <prefix>/checkpoints/<size>      the checkpoint of that size
package tiles

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tallystick/tallystick/tlog"
)

// maxSizes is how many sizes of kept checkpoints one answer lists.
const maxSizes = 1000

const (
	cacheForever = "public, max-age=31536000, immutable"
	cacheAsk     = "no-cache"
	cacheNever   = "no-store"

	typeText  = "text/plain; charset=utf-8"
	typeBytes = "application/octet-stream"
)

// Options of a Handler. The zero value serves at the root and logs nothing.
type Options struct {
	Prefix string       // path before /checkpoint, such as "/log"; "" for none. It does not end in a slash
	Log    *slog.Logger // told what a client is not: why something could not be read
}

// Handler serves what r publishes. Where r is a tlog.History too, it also serves earlier checkpoints. A tile beyond the
// newest checkpoint does not exist, whatever r has; which partial tiles there are within it, r says.
//
// It answers GET and HEAD. A path that is not spelled as its writer would spell it does not exist: another escape,
// a slash or a zero more, a query where none belongs are 404, so that a cache has one name for one thing. Tiles and
// kept checkpoints may be stored for ever, the newest checkpoint only to be asked about again, lists and errors not at
// all. Entry bundles are compressed with gzip for those who accept it.
func Handler(r tlog.Reader, o Options) http.Handler {
	h := &handler{r: r, o: o}
	h.history, _ = r.(tlog.History)
	if o.Log == nil {
		h.o.Log = slog.New(slog.DiscardHandler)
	}
	h.gzips.New = func() any {
		w, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		if err != nil {
			panic(err) // the level is a constant
		}
		return w
	}
	return h
}

type handler struct {
	r       tlog.Reader
	history tlog.History // nil where r is none
	o       Options
	size    atomic.Uint64 // of a published checkpoint, the largest seen; they never shrink
	gzips   sync.Pool     // of *gzip.Writer
}

// errRequest is an answer of 400; its text is for the client.
type errRequest string

func (e errRequest) Error() string { return string(e) }

// An answer is what is written where nothing failed.
type answer struct {
	body  []byte
	kind  string // Content-Type
	cache string // Cache-Control
	zip   bool   // may be compressed
}

func (h *handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	head := w.Header()
	head.Set("Access-Control-Allow-Origin", "*") // browsers verify too
	head.Set("X-Content-Type-Options", "nosniff")
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		head.Set("Allow", "GET, HEAD")
		h.fail(w, req, http.StatusMethodNotAllowed, "the log is only read here: GET or HEAD")
		return
	}
	a, err := h.answer(req)
	var bad errRequest
	switch {
	case errors.As(err, &bad):
		h.fail(w, req, http.StatusBadRequest, bad.Error())
		return
	case errors.Is(err, tlog.ErrNotFound):
		h.fail(w, req, http.StatusNotFound, "not found")
		return
	case err != nil:
		if req.Context().Err() == nil {
			h.o.Log.Error("the log cannot be read", "path", req.URL.Path, "error", err)
		}
		h.fail(w, req, http.StatusInternalServerError, "the log cannot be read at the moment")
		return
	}
	if a.zip {
		head.Set("Vary", "Accept-Encoding")
		if acceptsGzip(req.Header.Values("Accept-Encoding")) {
			if zipped := h.gzip(a.body); len(zipped) < len(a.body) {
				head.Set("Content-Encoding", "gzip")
				a.body = zipped
			}
		}
	}
	head.Set("Content-Type", a.kind)
	head.Set("Cache-Control", a.cache)
	h.write(w, req, http.StatusOK, a.body)
}

func (h *handler) fail(w http.ResponseWriter, req *http.Request, status int, text string) {
	w.Header().Set("Content-Type", typeText)
	w.Header().Set("Cache-Control", cacheNever)
	h.write(w, req, status, []byte(text+"\n"))
}

func (h *handler) write(w http.ResponseWriter, req *http.Request, status int, body []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if req.Method != http.MethodHead {
		w.Write(body)
	}
}

// answer reads what a request names.
func (h *handler) answer(req *http.Request) (answer, error) {
	ctx, u := req.Context(), req.URL
	path, ok := strings.CutPrefix(u.Path, h.o.Prefix+"/")
	if !ok || u.RawPath != "" { // RawPath is set where the escapes are not the usual ones, and here none are usual
		return answer{}, tlog.ErrNotFound
	}
	if path == "checkpoints" && h.history != nil {
		return h.sizes(ctx, u.RawQuery)
	}
	if u.RawQuery != "" || u.ForceQuery {
		return answer{}, tlog.ErrNotFound
	}
	if path == "checkpoint" {
		signed, err := h.r.Checkpoint(ctx)
		return answer{body: signed, kind: typeText, cache: cacheAsk}, err
	}
	if name, ok := strings.CutPrefix(path, "checkpoints/"); ok && h.history != nil {
		n, ok := parseSize(name)
		if !ok {
			return answer{}, tlog.ErrNotFound
		}
		size, err := h.reach(ctx, n)
		if err == nil && size < n {
			err = tlog.ErrNotFound // kept, perhaps, and not published yet
		}
		if err != nil {
			return answer{}, err
		}
		signed, err := h.history.CheckpointAt(ctx, n)
		return answer{body: signed, kind: typeText, cache: cacheForever}, err
	}
	t, err := tlog.ParseTilePath(path)
	if err != nil {
		return answer{}, tlog.ErrNotFound
	}
	return h.tile(ctx, t)
}

func (h *handler) sizes(ctx context.Context, query string) (answer, error) {
	var after uint64
	if query != "" {
		n, ok := strings.CutPrefix(query, "after=")
		if ok {
			after, ok = parseSize(n)
		}
		if !ok {
			return answer{}, errRequest("ask for /checkpoints or /checkpoints?after=N, with N a decimal number without leading zeros")
		}
	}
	sizes, err := h.history.Sizes(ctx, after, maxSizes)
	if err != nil {
		return answer{}, err
	}
	var published uint64
	if len(sizes) > 0 {
		if published, err = h.reach(ctx, sizes[len(sizes)-1]); err != nil {
			return answer{}, err
		}
	}
	var body []byte
	for _, size := range sizes {
		if size > published {
			break
		}
		body = strconv.AppendUint(body, size, 10)
		body = append(body, '\n')
	}
	return answer{body: body, kind: typeText, cache: cacheNever}, nil
}

func (h *handler) tile(ctx context.Context, t tlog.Tile) (answer, error) {
	if err := h.published(ctx, t); err != nil {
		return answer{}, err
	}
	data, err := h.r.Tile(ctx, t)
	if err != nil {
		if t.Width == tlog.TileWidth && errors.Is(err, tlog.ErrNotFound) {
			h.o.Log.Warn("a full tile of the published tree is not there", "tile", t.Path(), "error", err)
		}
		return answer{}, err
	}
	// What leaves here is stored for a year, so a damaged tile must not leave at all.
	a := answer{body: data, kind: typeBytes, cache: cacheForever}
	if t.Level == tlog.EntriesLevel {
		a.zip = true
		_, err = tlog.ParseBundle(data, t.Width)
	} else {
		_, err = tlog.ParseHashes(data, t.Width)
	}
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", t.Path(), err)
	}
	return a, nil
}

// published returns ErrNotFound for a tile that lies beyond the published checkpoint. Which of the partial tiles within it
// there are is for the log to say: its history may have forgotten a checkpoint that a client still holds.
func (h *handler) published(ctx context.Context, t tlog.Tile) error {
	first, ok := firstWith(t)
	if !ok {
		return tlog.ErrNotFound
	}
	size, err := h.reach(ctx, first)
	if err == nil && size < first {
		err = tlog.ErrNotFound
	}
	return err
}

// reach returns the size of a published checkpoint: the newest one, if an older one of at least want is not known.
func (h *handler) reach(ctx context.Context, want uint64) (uint64, error) {
	if size := h.size.Load(); size >= want {
		return size, nil
	}
	signed, err := h.r.Checkpoint(ctx)
	if err != nil {
		return 0, err
	}
	c, err := claimed(signed)
	if err != nil {
		return 0, err
	}
	for seen := h.size.Load(); seen < c.Size && !h.size.CompareAndSwap(seen, c.Size); seen = h.size.Load() {
	}
	return c.Size, nil
}

// firstWith returns the smallest tree size that has the tile. ok is false where no tree of fewer than 2^63 entries
// has it.
func firstWith(t tlog.Tile) (size uint64, ok bool) {
	shift := tlog.TileHeight * max(t.Level, 0)
	if shift > 56 || t.Index >= 1<<63>>tlog.TileHeight {
		return 0, false
	}
	nodes := t.Index*tlog.TileWidth + uint64(t.Width)
	size = nodes << shift
	return size, size>>shift == nodes && size < 1<<63
}

// claimed reads the checkpoint out of a signed note whose signatures nobody looked at.
func claimed(signed []byte) (tlog.Checkpoint, error) {
	end := bytes.LastIndex(signed, []byte("\n\n"))
	if end < 0 || len(signed) > tlog.MaxCheckpoint {
		return tlog.Checkpoint{}, errors.New("tiles: the checkpoint is not a signed note")
	}
	return tlog.ParseCheckpoint(signed[:end+1])
}

// parseSize reads a tree size in its only spelling.
func parseSize(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}

func (h *handler) gzip(data []byte) []byte {
	w := h.gzips.Get().(*gzip.Writer)
	defer h.gzips.Put(w)
	var b bytes.Buffer
	w.Reset(&b)
	w.Write(data) // into memory: nothing to fail
	w.Close()
	return b.Bytes()
}

// acceptsGzip reads Accept-Encoding by RFC 9110 §12.5.3.
func acceptsGzip(fields []string) bool {
	gzip, rest := -1.0, -1.0 // weights; below 0 where not named
	for _, field := range fields {
		for item := range strings.SplitSeq(field, ",") {
			coding, param, _ := strings.Cut(item, ";")
			weight := 1.0
			if q, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(param)), "q="); ok {
				var err error
				if weight, err = strconv.ParseFloat(q, 64); err != nil {
					weight = 0
				}
			}
			switch strings.ToLower(strings.TrimSpace(coding)) {
			case "gzip", "x-gzip":
				gzip = weight
			case "*":
				rest = weight
			}
		}
	}
	if gzip < 0 {
		gzip = rest
	}
	return gzip > 0
}
