package gateway

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A watch sees that a caller left while nobody reads from its connection: fasthttp would notice only at its next
// write. It peeks, so that a request that was sent ahead stays where it is; such a caller is there, and is watched no more.
type watch struct {
	conn    net.Conn // of the server; its read deadline is given back when the watch ends
	raw     net.Conn
	done    chan struct{}
	stopped atomic.Bool
}

// watchCaller calls gone, once, from a goroutine of its own, when the other end of conn is closed. stop must be
// called before conn is read again.
func watchCaller(conn net.Conn, gone func()) *watch {
	raw, secure := conn, false
	if s, ok := strictOf(conn); ok {
		raw = s.raw()
		_, secure = conn.(*strictTLSConn)
	}
	sc, ok := raw.(syscall.Conn)
	if !ok {
		return nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	w := &watch{conn: conn, raw: raw, done: make(chan struct{})}
	// What the server had set was for reading the request, which is over.
	conn.SetReadDeadline(time.Time{})
	go func() {
		defer close(w.done)
		left := false
		err := rc.Read(func(fd uintptr) bool {
			var b [1]byte
			n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
				return false // wait until there is something to read
			case err != nil, n == 0:
				left = true
			case secure && b[0] == alertRecord:
				left = true // TLS says goodbye before TCP does
			}
			return true
		})
		if left && err == nil && !w.stopped.Load() {
			gone()
		}
	}()
	return w
}

// alertRecord is the type of a TLS alert record (RFC 8446 §5.1), of which a close_notify is one.
const alertRecord = 21

// stop ends the watch and returns when it has ended. Stopping twice, or a nil watch, is nothing.
func (w *watch) stop() {
	if w == nil || w.stopped.Swap(true) {
		return
	}
	w.raw.SetReadDeadline(time.Unix(1, 0))
	<-w.done
	w.raw.SetReadDeadline(time.Time{})
}

// deadline is d from now.
func deadline(d time.Duration) time.Time { return time.Now().Add(d) }
