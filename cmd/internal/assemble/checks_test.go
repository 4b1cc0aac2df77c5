package assemble

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/audit/console"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/tlog/local"
	"github.com/tallystick/tallystick/witness"
)

// What people are told of how everything is says what is wrong, how bad that is, and what to look at.
func TestChecks(t *testing.T) {
	long, now := time.Now().Add(-time.Hour), time.Now()
	away := errors.New("nobody answers")
	for _, c := range []struct {
		name  string
		got   console.Check
		state console.State
		says  string
	}{
		{"a log", logCheck(local.Stats{Size: 9, Anchored: 8, Published: 7}, nil), console.Well, "9 are durable, 8 anchored, 7 published"},
		{"a log in quarantine", logCheck(local.Stats{Refuses: away}, errors.New("an older copy")), console.Failing, "quarantine"},
		{"a log that was closed", logCheck(local.Stats{Refuses: away, Err: away}, nil), console.Failing, "before it is opened again. nobody answers"},
		{"a log that is full", logCheck(local.Stats{Refuses: away}, nil), console.Failing, "for now. nobody answers"},
		{"a checkpoint", checkpointCheck(local.Stats{Size: 9, Published: 9, PublishedAt: now}), console.Well, "9 of 9"},
		{"an old checkpoint with nothing newer to show", checkpointCheck(local.Stats{Size: 9, Published: 9, PublishedAt: long}), console.Well, "1h0m0s ago"},
		{"a late checkpoint", checkpointCheck(local.Stats{Size: 9, Published: 8, PublishedAt: now.Add(-time.Minute)}), console.Warning, "It is late"},
		{"a very late checkpoint", checkpointCheck(local.Stats{Size: 9, Published: 8, PublishedAt: long}), console.Failing, "can be reached"},
		{"an anchor", anchorCheck(local.Stats{}), console.Well, "newest"},
		{"an anchor that is away", anchorCheck(local.Stats{Unanchored: time.Minute}), console.Warning, "1m0s"},
		{"a disk", diskCheck(local.Stats{Free: 5 << 30}), console.Well, "5.0 GiB"},
		{"a small disk", diskCheck(local.Stats{Free: 1 << 30}), console.Warning, "Make room."},
		{"a full disk", diskCheck(local.Stats{Free: 1 << 20}), console.Failing, "Make room now"},
		{"a disk that was not looked at", diskCheck(local.Stats{}), console.Unknown, "not looked"},
		{"a witness", onlookerCheck("Witness w", witness.Status{Size: 9, Cosigned: now}), console.Well, "9 entries"},
		{"a witness that missed one", onlookerCheck("Witness w", witness.Status{Size: 9, Cosigned: now, Failures: 1, Err: away}), console.Well, "nobody answers"},
		{"a witness that is away", onlookerCheck("Witness w", witness.Status{Size: 9, Cosigned: long, Failures: 40, Err: away}), console.Warning, "40 times in a row. nobody answers"},
		{"a new witness", onlookerCheck("Witness w", witness.Status{}), console.Unknown, "not cosigned anything"},
		{"a witness that lied", onlookerCheck("Witness w", witness.Status{Size: 9, Cosigned: now, Faults: 1}), console.Failing, "lied"},
		{"a gateway", gatewayCheck(nil, gateway.Stats{}), console.Well, "on record"},
		{"a gateway that lets nothing pass", gatewayCheck(away, gateway.Stats{}), console.Failing, "nobody answers"},
		{"a gateway that lost some", gatewayCheck(nil, gateway.Stats{Lost: 3}), console.Warning, "3 sessions"},
		{"a gateway that has not told of it", gatewayCheck(nil, gateway.Stats{Lost: 3, Untold: 2}), console.Failing, "2 sessions"},
		{"a gateway that could not write", gatewayCheck(nil, gateway.Stats{Unrecorded: map[string]uint64{"request": 1, "journal": 1}}), console.Warning, "2 times"},
		{"a gateway with a fault", gatewayCheck(nil, gateway.Stats{Panics: 1}), console.Warning, "Report it"},
		{"an index", followerCheck("index", 9, 9), console.Well, "9 entries."},
		{"an index of a log in another process", followerCheck("index", 9, 0), console.Well, "9 entries."},
		{"an index that is a little behind", followerCheck("index", 9, 10), console.Well, "1 behind"},
		{"an index that is far behind", followerCheck("index", 9, 100_000), console.Warning, "not found there yet"},
	} {
		if c.got.State != c.state || !strings.Contains(c.got.Says, c.says) || c.got.Name == "" {
			t.Errorf("%s: %+v", c.name, c.got)
		}
	}
}
