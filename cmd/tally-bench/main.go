// Command tally-bench measures how fast the log and the gateway are, as ratios to what bounds them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/tallystick/tallystick/bench"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/keys/vault"
)

func main() {
	dir := flag.String("dir", "", "a `directory` on the disk to measure; by default the system's for temporary files")
	rounds := flag.Int("rounds", 5, "rounds of each arm, in turns")
	each := flag.Duration("time", 3*time.Second, "length of a round")
	only := flag.String("run", "", "append, pass, decide or masking; by default all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	fmt.Println(strings.Join(os.Args, " "))
	if err := run(ctx, *dir, *only, *rounds, *each); err != nil {
		fmt.Fprintln(os.Stderr, "tally-bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, only string, rounds int, each time.Duration) error {
	type workload interface {
		Run(context.Context) (bench.Result, error)
	}
	var all []workload
	if only == "" || only == "append" {
		for _, n := range []int{64, 256} {
			all = append(all, bench.Append{Dir: dir, Producers: n, Entry: 350, Payload: 2048 - 350, Rounds: rounds, Time: each})
		}
	}
	if only == "" || only == "pass" {
		for _, mode := range []gateway.Mode{gateway.Strict, gateway.Overlap, gateway.Open} {
			all = append(all, bench.Pass{Dir: dir, Mode: mode, Callers: 64, Rounds: rounds, Time: each})
		}
		all = append(all,
			bench.Pass{Dir: dir, Callers: 200, Wait: 50 * time.Millisecond, Rounds: rounds, Time: each},
			bench.Pass{Dir: dir, Callers: 64, Stream: true, Rounds: rounds, Time: each})
	}
	if only == "" || only == "decide" {
		for _, callers := range []int{1, 32} {
			all = append(all, bench.Decide{Dir: dir, Rules: 50, Callers: callers, Rounds: rounds, Time: each})
		}
	}
	if _, there := os.LookupEnv("VAULT_ADDR"); only == "vault" || only == "" && there {
		vc, err := vault.FromEnvironment(os.LookupEnv)
		if err != nil {
			return err
		}
		v := bench.Vault{Vault: vc, Dir: dir, Rounds: rounds, Time: each}
		all = append(all, bench.Checkpoint{Vault: v}, bench.Seal{Vault: v, Sealers: 16, Body: 2048})
	}
	if only == "" || only == "masking" {
		if err := bench.WriteMasked(os.Stdout); err != nil {
			return err
		}
		for _, json := range []bool{false, true} {
			all = append(all, bench.Masking{JSON: json, Peer: bench.Regexp(), Rounds: rounds, Time: each})
		}
	}
	for _, w := range all {
		r, err := w.Run(ctx)
		if err != nil {
			return err
		}
		r.Write(os.Stdout)
	}
	return nil
}
