// Command peers measures what tally-bench does against libraries that the product does not link: a module of its own has them.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/wasilibs/go-re2"

	"github.com/tallystick/tallystick/bench/masking"
)

// re2Finder is RE2 itself, compiled to WebAssembly.
func re2Finder() masking.Finder {
	x := re2.MustCompile(masking.Expression)
	return masking.Finder{Name: "go-re2", Find: func(b []byte) int { return len(x.FindAllIndex(b, -1)) }}
}

func main() {
	rounds := flag.Int("rounds", 5, "rounds of each arm, in turns")
	each := flag.Duration("time", 3*time.Second, "length of a round")
	flag.Parse()
	for _, peer := range []masking.Finder{masking.Regexp(), re2Finder()} {
		for _, json := range []bool{false, true} {
			s := masking.Speed{JSON: json, Peer: peer, Rounds: *rounds, Time: *each}
			ours, theirs, err := s.Run(context.Background())
			if err != nil {
				fmt.Fprintln(os.Stderr, "peers:", err)
				os.Exit(1)
			}
			slices.Sort(ours)
			slices.Sort(theirs)
			o, p := ours[len(ours)/2], theirs[len(theirs)/2]
			fmt.Printf("%-34s ours %9.0f MB/s     peer %9.0f MB/s     ratio %.2f\n", s.Name(), o, p, o/p)
		}
	}
}
