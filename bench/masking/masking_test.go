package masking

import (
	"bytes"
	"testing"
	"time"
)

// Both arms are measured, and the table has what must be in it. How much is not judged here.
func TestRuns(t *testing.T) {
	for _, json := range []bool{false, true} {
		ours, peer, err := Speed{JSON: json, Peer: Regexp(), Rounds: 1, Time: 50 * time.Millisecond}.Run(t.Context())
		if err != nil || len(ours) != 1 || len(peer) != 1 || ours[0] <= 0 || peer[0] <= 0 {
			t.Errorf("%v %v %v", ours, peer, err)
		}
	}
	var table bytes.Buffer
	if err := WriteTable(&table); err != nil || !bytes.Contains(table.Bytes(), []byte("\nCREDIT_CARD ")) {
		t.Errorf("%v\n%s", err, table.Bytes())
	}
}
