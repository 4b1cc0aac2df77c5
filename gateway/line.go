package gateway

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptrace"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A line is a connection to a model on which nothing is heard that was not asked for. net/http checks a connection that
// carries no call for what came unasked, but another call can take the connection before it has looked, and is then
// given that as its answer. Here a call that takes a connection waits until its reader sits at an empty socket, and
// what comes while no call is on the line ends it.
//
// This is so for HTTP/1.1. Over HTTP/2 an answer says to which call it belongs.
type line struct {
	net.Conn
	raw  syscall.RawConn
	step func(fd uintptr) bool // tries to read once; made once

	// Owned by the reader.
	p   []byte
	n   int
	err error

	mu      sync.Mutex
	changed sync.Cond // of what follows; L is mu
	idle    bool      // the reader found nothing and waits for more
	over    bool      // it was closed
	busy    bool      // a call is on it
	turn    int       // of the call
}

// errUnasked means that something came that nobody had asked for.
var errUnasked = errors.New("the model said something unasked")

// newLine returns the line over conn. Until its first call a line for TLS may hear the handshake, and any other nothing.
func newLine(conn net.Conn, secure bool) net.Conn {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return conn
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return conn
	}
	l := &line{Conn: conn, raw: raw, busy: secure}
	l.changed.L = &l.mu
	l.step = l.read
	return l
}

// Read reads as Conn does. What it takes from the socket and whether a call is on the line it looks at as one.
func (l *line) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	l.p, l.n, l.err = p, 0, nil
	err := l.raw.Read(l.step)
	l.p = nil
	if err == nil {
		err = l.err
	}
	return l.n, err
}

func (l *line) read(fd uintptr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := again(func() (int, error) { return unix.Read(int(fd), l.p) })
	if errors.Is(err, unix.EAGAIN) {
		l.idle = true
		l.changed.Broadcast()
		return false
	}
	l.idle = false
	switch {
	case err != nil:
		l.err = &net.OpError{Op: "read", Net: "tcp", Source: l.LocalAddr(), Addr: l.RemoteAddr(), Err: err}
	case n == 0:
		l.err = io.EOF
	case !l.busy:
		l.err = errUnasked
	default:
		l.n = n
	}
	return true
}

// Close closes the connection.
func (l *line) Close() error {
	l.mu.Lock()
	l.over = true
	l.changed.Broadcast()
	l.mu.Unlock()
	return l.Conn.Close()
}

// take puts a call on the line and returns its turn. If something is there that was not asked for, the line is closed
// when it returns, and the transport takes another.
func (l *line) take(used bool) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if used {
		l.busy = false
		// The transport reads ahead by itself: it will come to wait, or find what it did not expect and close.
		for !l.idle && !l.over {
			l.changed.Wait()
		}
		if !l.over && l.pending() {
			for !l.over {
				l.changed.Wait()
			}
		}
	}
	l.busy = true
	l.turn++
	return l.turn
}

// pending says whether something is in the socket that the reader has not come to take. l.mu is held.
func (l *line) pending() bool {
	found := false
	err := l.raw.Control(func(fd uintptr) {
		var b [1]byte
		_, err := again(func() (int, error) {
			n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			return n, err
		})
		found = !errors.Is(err, unix.EAGAIN)
	})
	return found || err != nil
}

// leave takes a call off the line, if no other has taken it since.
func (l *line) leave(turn int) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.turn == turn {
		l.busy = false
	}
}

// lineOf finds the line under a connection of the transport's that carries one call at a time.
func lineOf(conn net.Conn) *line {
	if t, ok := conn.(*tls.Conn); ok {
		if t.ConnectionState().NegotiatedProtocol == "h2" {
			return nil
		}
		conn = t.NetConn()
	}
	l, _ := conn.(*line)
	return l
}

// trace tells the call which line it is on.
func (a *answerBody) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		if a.line = lineOf(got.Conn); a.line != nil {
			a.turn = a.line.take(got.Reused || got.WasIdle)
		}
	}}
}
