// Command peers measures what tally-bench does against libraries that the product does not link: a module of its own has them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/wasilibs/go-re2"

	"github.com/tallystick/tallystick/bench"
)

// re2Finder is RE2 itself, compiled to WebAssembly.
func re2Finder() bench.Finder {
	x := re2.MustCompile(bench.Expression)
	return bench.Finder{Name: "go-re2", Find: func(b []byte) int { return len(x.FindAllIndex(b, -1)) }}
}

func main() {
	rounds := flag.Int("rounds", 5, "rounds of each arm, in turns")
	each := flag.Duration("time", 3*time.Second, "length of a round")
	flag.Parse()
	for _, peer := range []bench.Finder{bench.Regexp(), re2Finder()} {
		for _, json := range []bool{false, true} {
			r, err := bench.Masking{JSON: json, Peer: peer, Rounds: *rounds, Time: *each}.Run(context.Background())
			if err != nil {
				fmt.Fprintln(os.Stderr, "peers:", err)
				os.Exit(1)
			}
			r.Write(os.Stdout)
		}
	}
}
