package gateway

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A watch sees that a caller left while nobody reads from its connection: fasthttp would notice only at its next
// write. It peeks, so that a request that was sent ahead stays where it is.
type watch struct {
	raw     net.Conn
	done    chan struct{}
	stopped atomic.Bool
}

// watchCaller calls gone, once, from a goroutine of its own, when the other end of conn is closed, or closed for writing:
// that cannot be told apart, and a caller that waits for an answer keeps both halves open. stop must be called before
// conn is read again.
func watchCaller(conn net.Conn, gone func()) *watch {
	raw := conn
	goodbye := func([]byte) bool { return false }
	if s, ok := strictOf(conn); ok {
		raw = s.raw()
		if t, ok := conn.(*strictTLSConn); ok {
			goodbye = farewell(t.ConnectionState().Version)
		}
	}
	sc, ok := raw.(syscall.Conn)
	if !ok {
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	w := &watch{raw: raw, done: make(chan struct{})}
	// What the server had set was for reading the request, which is over.
	conn.SetReadDeadline(time.Time{})
	go func() {
		defer close(w.done)
		left := false
		err := rc.Read(func(fd uintptr) bool {
			left = departed(int(fd), goodbye)
			return left // or wait for more to come
		})
		if left && err == nil && !w.stopped.Load() {
			gone()
		}
	}()
	return w
}

// departed says whether the other end of a socket is closed, be there unread bytes or not.
func departed(fd int, goodbye func([]byte) bool) bool {
	var b [tlsAlertBytes]byte
	n, err := again(func() (int, error) {
		n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return n, err
	})
	switch {
	case errors.Is(err, unix.EAGAIN):
		return false
	case err != nil, n == 0, goodbye(b[:n]):
		return true
	}
	// Something was sent ahead. Whether an end follows it the socket tells without its being read.
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err = again(func() (int, error) { return unix.Poll(p, 0) })
	return err == nil && n == 1 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}

// again calls f until no signal comes between.
func again(f func() (int, error)) (int, error) {
	for {
		if n, err := f(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// tlsAlertBytes is the length of a TLS 1.3 record that holds an alert: two bytes, their type, and a tag of 16 behind
// a header of 5.
const tlsAlertBytes = 5 + 2 + 1 + 16

// farewell returns what tells that a TLS connection's next record is an alert, of which a close_notify is one: TLS says
// goodbye before TCP does. Up to TLS 1.2 a record says what it is; in 1.3 it looks like data (RFC 8446 §5.2), and is told
// by its length.
func farewell(version uint16) func([]byte) bool {
	if version < tls.VersionTLS13 {
		return func(b []byte) bool { return b[0] == 21 }
	}
	return func(b []byte) bool {
		return len(b) == tlsAlertBytes && bytes.HasPrefix(b, []byte{23, 3, 3, 0, tlsAlertBytes - 5})
	}
}

// stop ends the watch and returns when it has ended. Stopping twice, or a nil watch, is nothing.
func (w *watch) stop() {
	if w == nil || w.stopped.Swap(true) {
		return
	}
	w.raw.SetReadDeadline(time.Unix(1, 0))
	<-w.done
	w.raw.SetReadDeadline(time.Time{})
}
