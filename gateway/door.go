package gateway

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A door is the listener below everything: it counts who is in, turns away who is too many, gives a newcomer a time to
// say something, and can put everybody out.
type door struct {
	net.Listener
	room  int           // connections at a time
	first time.Duration // from a connection's beginning to its first byte, and through a TLS handshake
	full  func(net.Conn)

	mu     sync.Mutex
	in     map[*guest]struct{} // under mu
	closed bool                // under mu: whoever comes now is put out
}

func newDoor(ln net.Listener, room int, first time.Duration, full func(net.Conn)) *door {
	return &door{Listener: ln, room: room, first: first, full: full, in: make(map[*guest]struct{})}
}

// Accept waits for the next who finds room. Where the system is short of something it waits for that, too.
func (d *door) Accept() (net.Conn, error) {
	pause := time.Duration(0)
	for {
		conn, err := d.Listener.Accept()
		if short(err) {
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
			continue
		}
		if err != nil {
			return nil, err
		}
		pause = 0
		if g := d.admit(conn); g != nil {
			return g, nil
		}
		d.full(conn)
	}
}

// short says whether an error of accepting passes by itself.
func short(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED, unix.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (d *door) admit(conn net.Conn) *guest {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.in) >= d.room {
		return nil
	}
	g := &guest{Conn: conn, door: d}
	d.in[g] = struct{}{}
	// Whoever reads sets the time for what comes after.
	conn.SetReadDeadline(time.Now().Add(d.first))
	return g
}

// closeSilent puts out those that have said nothing yet.
func (d *door) closeSilent() { d.put(func(g *guest) bool { return !g.spoke.Load() }) }

// closeAll puts everybody out, and whoever still comes.
func (d *door) closeAll() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.put(func(*guest) bool { return true })
}

func (d *door) put(who func(*guest) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for g := range d.in {
		if who(g) {
			g.Conn.Close()
		}
	}
}

// A guest is one connection that was let in. It leaves when it is closed.
type guest struct {
	net.Conn
	door  *door
	spoke atomic.Bool
}

// NetConn returns the connection below.
func (g *guest) NetConn() net.Conn { return g.Conn }

func (g *guest) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if n > 0 && !g.spoke.Load() {
		g.spoke.Store(true)
	}
	return n, err
}

// CloseWrite ends our half of the connection, where it has halves.
func (g *guest) CloseWrite() error {
	if c, ok := g.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return net.ErrClosed
}

func (g *guest) Close() error {
	g.door.mu.Lock()
	delete(g.door.in, g)
	g.door.mu.Unlock()
	return g.Conn.Close()
}
