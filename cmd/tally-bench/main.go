// Command tally-bench measures how fast the log and the gateway are, as ratios to what bounds them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/bench"
	"github.com/tallystick/tallystick/bench/masking"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/gateway"
	"github.com/tallystick/tallystick/keys/vault"
)

const help = `Usage: tally-bench [flags]

Measures here what the log and the gateway cost, as ratios to what bounds them, and prints a line for each.

  --run NAME   append, pass, decide, masking, or vault, which needs VAULT_ADDR and VAULT_TOKEN, or search, which
               takes long; by default all but search, and vault where VAULT_ADDR is set
  --rounds N   rounds of each arm, in turns (5)
  --time D     how long a round is (3s)
  --sessions N of search: how many there are in the index (1000000); 0 for none, and only to follow a log
  --keep DIR   of search: where the index is kept, and taken from, so that it need not be made again
  --dir DIR    a directory on the disk to measure; by default the system's for temporary files

Exit codes: 0 it was measured; 1 it was not; 64 wrong usage.
`

func main() {
	fs := cli.NewFlags("tally-bench")
	dir := fs.String("dir", "", "")
	rounds := fs.Int("rounds", 5, "")
	each := fs.Duration("time", 3*time.Second, "")
	only := fs.String("run", "", "")
	sessions := fs.Int("sessions", 1_000_000, "")
	keep := fs.String("keep", "", "")
	rest, err := cli.Parse(fs, os.Args[1:])
	workloads := []string{"append", "pass", "decide", "masking", "vault", "search"}
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(help)
		return
	case err != nil:
	case len(rest) > 0:
		err = cli.Usagef("%q is one argument too many", rest[0])
	case *only != "" && !slices.Contains(workloads, *only):
		err = cli.Usagef("--run takes one of %s", strings.Join(workloads, ", "))
	case *rounds < 1 || *each <= 0:
		err = cli.Usagef("--rounds and --time are to be above 0")
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "tally-bench: %s\nTry tally-bench --help.\n", cli.Escape(err.Error()))
		os.Exit(cli.ExitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	fmt.Println(strings.Join(os.Args, " "))
	if *only == "search" {
		s := bench.Search{Dir: *dir, Keep: *keep, Sessions: *sessions, Queries: 60, Rates: []int{100, 300, 1000}, Time: max(*each, 20*time.Second)}
		if err := s.Run(ctx, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "tally-bench:", err)
			os.Exit(1)
		}
		return
	}
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
		if err := masking.WriteTable(os.Stdout); err != nil {
			return err
		}
		for _, json := range []bool{false, true} {
			all = append(all, masked{masking.Speed{JSON: json, Peer: masking.Regexp(), Rounds: rounds, Time: each}})
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

// masked is the masker's speed as a workload among the others.
type masked struct{ masking.Speed }

func (m masked) Run(ctx context.Context) (bench.Result, error) {
	ours, peer, err := m.Speed.Run(ctx)
	return bench.Result{Name: m.Name(), Unit: "MB/s", Ours: ours, Peer: peer}, err
}
