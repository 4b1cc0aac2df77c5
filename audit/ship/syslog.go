package ship

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/tallystick/tallystick/tlog/record"
)

// A syslog is a collector that takes a stream of messages. Syslog has no acknowledgement: what was written to a connection may be lost
// with it. So each delivery has a connection of its own, which is ended in order, and counts when the collector has ended it
// as well, without a reset: by then it has read everything. A collector that dies with what it has read and not stored
// is beyond what this protocol can tell.
type syslog struct {
	network, address string
	tls              *tls.Config // nil for none
	timeout          time.Duration
	said             string
}

func (s *syslog) String() string { return s.said }

func (s *syslog) Close() error { return nil }

func (s *syslog) Deliver(ctx context.Context, lines [][]byte) error {
	var all []byte
	for _, l := range lines {
		m, err := message(l)
		if err != nil {
			return &RefusedError{err.Error()}
		}
		all = strconv.AppendInt(all, int64(len(m)), 10)
		all = append(append(all, ' '), m...)
	}
	if err := s.send(ctx, all); err != nil {
		return fmt.Errorf("ship: %s: %w", s.said, err)
	}
	return nil
}

// send returns nil when the other end has read everything and ended the connection.
func (s *syslog) send(ctx context.Context, all []byte) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, s.network, s.address)
	if err != nil {
		return err
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })()
	conn, end := raw, func() error { return nil }
	if s.tls != nil {
		t := tls.Client(raw, s.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			return err
		}
		conn, end = t, t.CloseWrite
	}
	if _, err := conn.Write(all); err != nil {
		return err
	}
	half, ok := raw.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("the connection cannot be ended by half")
	}
	if err := errors.Join(end(), half.CloseWrite()); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it did not say that it has read everything, by ending the connection: %w", err)
	}
	return nil
}

// The priority of a message is its facility, log audit, times eight, and a severity (RFC 5424 §6.2.1).
const (
	facility = 13
	warning  = 4
	notice   = 5
	informal = 6
)

// message returns a line as a syslog message: the writer as the host, the kind as the message's id, the time that the entry states,
// and as its text the line, without a byte order mark.
func message(line []byte) ([]byte, error) {
	var l struct {
		Time  time.Time   `json:"time"`
		Kind  record.Kind `json:"kind"`
		Entry struct {
			By      string         `json:"by"`
			Outcome record.Outcome `json:"outcome"`
		} `json:"entry"`
	}
	if err := json.Unmarshal(line, &l); err != nil {
		return nil, fmt.Errorf("ship: not a line of ours: %w", err)
	}
	severity := informal
	switch {
	case l.Kind == record.Refused, l.Kind == record.Gap, l.Entry.Outcome == record.Denied, l.Entry.Outcome == record.Internal, l.Entry.Outcome == record.Interrupted:
		severity = warning
	case l.Kind == record.Access, l.Kind == record.Erasure, l.Kind == record.Policy, l.Kind == record.Approval:
		severity = notice
	}
	b := fmt.Appendf(nil, "<%d>1 %s %s tallystick - %s - ", facility*8+severity, l.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), l.Entry.By, l.Kind)
	return append(b, bytes.TrimSuffix(line, []byte("\n"))...), nil
}
