package peers

import (
	"strings"
	"testing"
)

// TestBench has the workloads that need a Vault measure something. How much is not judged.
func TestBench(t *testing.T) {
	t.Parallel()
	h := &house{t: t, vault: startTransit(t), dir: t.TempDir()}
	out, err := h.command("tally-bench", "-run", "vault", "-rounds", "1", "-time", "100ms").CombinedOutput()
	for _, what := range []string{"checkpoint, in Vault", "sign p50", "anchor p50", "seal 2048 B, keys in Vault", "ratio"} {
		if err != nil || !strings.Contains(string(out), what) {
			t.Errorf("%v, without %q:\n%s", err, what, out)
		}
	}
}
