package tiles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/tallystick/tallystick/tlog"
)

// maxBundle is the size of the largest entry bundle that the format can express.
const maxBundle = tlog.TileWidth * (2 + 65535)

// userAgent is how a log's operator sees who reads.
const userAgent = "tallystick (+https://github.com/tallystick/tallystick)"

// Limits bound what a Reader takes from a place that it does not trust. Zero is the default.
type Limits struct {
	Checkpoint int // bytes of a signed checkpoint; tlog.MaxCheckpoint
	Bundle     int // bytes of an entry bundle, decompressed; the largest that the format has, 16,777,472
}

func (l Limits) withDefaults() Limits {
	if l.Checkpoint <= 0 {
		l.Checkpoint = tlog.MaxCheckpoint
	}
	if l.Bundle <= 0 {
		l.Bundle = maxBundle
	}
	return l
}

// tile returns how many bytes the tile may have.
func (l Limits) tile(t tlog.Tile) int {
	if t.Level == tlog.EntriesLevel {
		return min(l.Bundle, t.Width*(2+65535))
	}
	return t.Width * len(tlog.Hash{})
}

// A URL is a log behind its HTTP API. Safe for concurrent use.
type URL struct {
	base   string // ends in a slash
	client http.Client
	limits Limits
}

var (
	_ tlog.Reader  = (*URL)(nil)
	_ tlog.History = (*URL)(nil)
)

// FromURL returns the log whose checkpoint lies at base + "/checkpoint". base is an http or https URL without query,
// fragment or password. The client's transport, cookies and timeout are used; nil is a client with none but what the
// context brings. A redirect is followed on the same scheme and host only.
//
// Answers are read up to the limits. An error names the URL and the status, and quotes the beginning of the answer; 404 is
// tlog.ErrNotFound. Nothing is tried twice.
func FromURL(base string, client *http.Client, limits Limits) (*URL, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("the log's URL: %w", err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("tiles: the log's URL %.100q begins with neither http:// nor https://", u.Redacted())
	case u.Host == "":
		return nil, fmt.Errorf("tiles: the log's URL %.100q names no host", u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("tiles: the log's URL %.100q has a user name or password in it; a log is public and needs none", u.Redacted())
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, fmt.Errorf("tiles: the log's URL %.100q has a query or a fragment; name the prefix before /checkpoint", u.Redacted())
	}
	l := &URL{base: strings.TrimRight(u.String(), "/") + "/", limits: limits.withDefaults()}
	if client != nil {
		l.client = *client
	}
	asked := l.client.CheckRedirect
	l.client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if req.URL.Scheme != via[0].URL.Scheme || req.URL.Host != via[0].URL.Host {
			return fmt.Errorf("tiles: a redirect to %.100q leads to another host, and is not followed", req.URL.Redacted())
		}
		if len(via) >= 5 {
			return errors.New("tiles: more than 5 redirects")
		}
		if asked != nil {
			return asked(req, via)
		}
		return nil
	}
	return l, nil
}

// get reads base + path, which may have a query, up to limit bytes.
func (l *URL) get(ctx context.Context, path string, limit int) ([]byte, error) {
	u := l.base + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", userAgent)
	resp, err := l.client.Do(req)
	if err != nil {
		var where *url.Error // names the last of several URLs, and we the first
		if errors.As(err, &where) {
			err = where.Err
		}
		return nil, fmt.Errorf("GET %s: %w", u, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("GET %s: %w", u, tlog.ErrNotFound)
	}
	if resp.StatusCode != http.StatusOK {
		begin, _ := io.ReadAll(io.LimitReader(resp.Body, 100))
		return nil, fmt.Errorf("GET %s: the log answers %d: %q", u, resp.StatusCode, begin)
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" {
		return nil, fmt.Errorf("GET %s: the answer is encoded as %.40q, which nobody asked for", u, e)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("GET %s: after %d bytes of the answer: %w", u, len(body), err)
	}
	if len(body) > limit {
		return nil, fmt.Errorf("GET %s: the answer is longer than %d bytes; it begins %q", u, limit, body[:min(100, limit)])
	}
	return body, nil
}

// Checkpoint implements tlog.Reader.
func (l *URL) Checkpoint(ctx context.Context) ([]byte, error) {
	return l.get(ctx, "checkpoint", l.limits.Checkpoint)
}

// Tile implements tlog.Reader. A tile of hashes has the right length; a bundle has at most the limit.
func (l *URL) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	path, err := tilePath(t)
	if err != nil {
		return nil, err
	}
	data, err := l.get(ctx, path, l.limits.tile(t))
	if err != nil {
		return nil, err
	}
	if err := checkLength(t, len(data)); err != nil {
		return nil, fmt.Errorf("GET %s%s: %w; the answer begins %q", l.base, path, err, data[:min(100, len(data))])
	}
	return data, nil
}

// Sizes implements tlog.History, with a request for every 1,000 sizes.
func (l *URL) Sizes(ctx context.Context, after uint64, max int) ([]uint64, error) {
	var all []uint64
	for len(all) < max {
		path := "checkpoints?after=" + strconv.FormatUint(after, 10)
		body, err := l.get(ctx, path, maxSizes*len("18446744073709551615\n"))
		if err != nil {
			return nil, err
		}
		if len(body) == 0 {
			break
		}
		page, ok := strings.CutSuffix(string(body), "\n")
		if !ok {
			return nil, fmt.Errorf("GET %s%s: the list of sizes ends within a line", l.base, path)
		}
		for line := range strings.SplitSeq(page, "\n") {
			size, ok := parseSize(line)
			if !ok || size <= after {
				return nil, fmt.Errorf("GET %s%s: %.40q is not a size above %d", l.base, path, line, after)
			}
			after = size
			all = append(all, size)
		}
	}
	return all[:min(len(all), max)], nil
}

// CheckpointAt implements tlog.History.
func (l *URL) CheckpointAt(ctx context.Context, size uint64) ([]byte, error) {
	return l.get(ctx, "checkpoints/"+strconv.FormatUint(size, 10), l.limits.Checkpoint)
}

// tilePath returns the path of a tile that can have one.
func tilePath(t tlog.Tile) (string, error) {
	path := t.Path()
	if same, err := tlog.ParseTilePath(path); err != nil || same != t {
		return "", fmt.Errorf("tiles: level %d, index %d, width %d: %w", t.Level, t.Index, t.Width, tlog.ErrNotFound)
	}
	return path, nil
}

// checkLength refuses a tile of hashes that has not the hashes its width says.
func checkLength(t tlog.Tile, n int) error {
	if due := t.Width * len(tlog.Hash{}); t.Level != tlog.EntriesLevel && n != due {
		return fmt.Errorf("a tile of %d bytes where %d are due", n, due)
	}
	return nil
}
