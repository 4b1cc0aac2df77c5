package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/tallystick/tallystick/tlog"
)

// maxResponse is how many bytes are read of what a witness or mirror answers. A checkpoint has tlog.MaxCheckpoint, and a
// mirror's ticket 65,535 and is written in base64.
const maxResponse = 2 * tlog.MaxCheckpoint

// userAgent is how a witness's operator sees who submits.
const userAgent = "tallystick (+https://github.com/tallystick/tallystick)"

// newClient returns a client that follows no redirect: a submission goes to the witness that was named, or nowhere.
func newClient(base *http.Client) *http.Client {
	c := new(http.Client)
	if base != nil {
		*c = *base
	} else if t, ok := http.DefaultTransport.(*http.Transport); ok {
		c.Transport = t.Clone()
	}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

// checkPrefix returns a submission or monitoring prefix without the slash at its end. Its errors do not quote it: it may
// have in it what only its user is to know.
func checkPrefix(prefix string) (string, error) {
	u, err := url.Parse(prefix)
	switch {
	case prefix == "":
		return "", errors.New("there is none; add an http or https URL")
	case err != nil:
		return "", errors.New("it is no URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return "", errors.New("it begins with neither http:// nor https://")
	case u.Host == "":
		return "", errors.New("it names no host")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", errors.New("it has a user, a password, a query or a fragment; name what stands before /add-checkpoint")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// A response is an answer, read to its end and to maxResponse bytes.
type response struct {
	status int
	kind   string // media type
	body   []byte
}

// exchange makes a request, with a body if it is a POST, and reads the whole answer. Its errors name no URL: who was asked,
// the caller says.
func exchange(ctx context.Context, client *http.Client, method, to string, body []byte, header http.Header) (*response, error) {
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept-Encoding", "identity") // what is read is what is counted
	resp, err := client.Do(req)
	if err != nil {
		var where *url.Error
		if errors.As(err, &where) {
			err = where.Err
		}
		return nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxResponse+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("after %d bytes of its answer of status %d: %w", len(body), resp.StatusCode, err)
	case len(body) > maxResponse:
		return nil, &lapse{what: fmt.Sprintf("its answer of status %d is longer than %d bytes", resp.StatusCode, maxResponse)}
	case resp.Header.Get("Content-Encoding") != "":
		return nil, &lapse{what: "its answer is encoded, which nobody asked for"}
	}
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		kind = ""
	}
	return &response{status: resp.StatusCode, kind: kind, body: body}, nil
}

// size reads the size that a witness has, of an answer of 409.
func (r *response) size() (uint64, error) {
	if r.kind != "text/x.tlog.size" {
		return 0, fmt.Errorf("it answers 409 with the content type %.40q, which says no size", r.kind)
	}
	line, ok := strings.CutSuffix(string(r.body), "\n")
	if ok {
		if n, err := parseSize(line); err == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf("it answers 409 with %.40q, which is no size and a line break", r.body)
}

// unexpected says what a status means that the protocol has no use for.
func (r *response) unexpected() error {
	begin := r.body[:min(len(r.body), 100)]
	switch {
	case r.status >= 300 && r.status < 400:
		return fmt.Errorf("it answers %d, a redirect, which is not followed; name the right prefix", r.status)
	case r.status == http.StatusNotFound:
		return fmt.Errorf("it answers 404: it does not know the log, or the prefix is wrong: %q", begin)
	case r.status == http.StatusForbidden:
		return fmt.Errorf("it answers 403: it has another key of the log: %q", begin)
	case r.status == http.StatusTooManyRequests:
		return fmt.Errorf("it answers 429: it is asked too often: %q", begin)
	}
	return fmt.Errorf("it answers %d: %q", r.status, begin)
}
