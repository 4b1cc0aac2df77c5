package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tallystick/tallystick/audit"
	"github.com/tallystick/tallystick/audit/replay"
	"github.com/tallystick/tallystick/audit/transcript"
	"github.com/tallystick/tallystick/cmd/internal/cli"
	"github.com/tallystick/tallystick/tlog/record"
)

func (t *tally) replay(ctx context.Context, args []string) error {
	fs := t.flags("replay SESSION [--speed N] [--step] [--idle-limit TIME] [--wire] | replay SESSION --against URL | --with SESSION", `Plays a recorded session back as it happened: what was asked, who was waited for, and the answer
as it came, each at its own time. Nothing is sent anywhere. That it was played, by whom and why,
goes on record first.

With --against it plays nothing, but sends the recorded request once to a sandbox and says how the
two answers differ: status, text, tool calls, why it stopped, usage. No tool is called. With --with it
holds two recorded answers against each other. Exit 0: the same. 1: they differ. 2: trouble.

On a terminal the text flows; anywhere else each thing that happened is a line with its time in
seconds since the request. Control characters in what is recorded are shown as escapes.`)
	var s source
	speed := fs.Float64("speed", 1, "how many `times` faster than recorded")
	noDelay := fs.Bool("no-delay", false, "play at once")
	step := fs.Bool("step", false, "wait for the return key before each thing that happened; q and return ends it")
	idle := fs.Duration("idle-limit", 0, "the longest silence that is played, a `time` such as 2s; 0s for all of each")
	wire := fs.Bool("wire", false, "show heads, bodies and events as they were, in place of what they say")
	timing := fs.Bool("timing", false, "say at the end how late events were played")
	versus := t.versus(fs)
	who := s.flags(fs, "replayed on the command line")
	rest, err := parse(fs, args, 1, 1)
	if err != nil {
		return err
	}
	if !(*speed > 0) || *idle < 0 {
		return cli.Usagef("replay: --speed is above 0, and --idle-limit is not below it")
	}
	id, err := record.ParseID(rest[0])
	if err != nil {
		return cli.Usagef("replay: %v", err)
	}
	if versus.wanted() {
		return versus.compare(ctx, &s, *who, id)
	}
	sessions, err := t.sessions(ctx, &s, *who, audit.Play, "", []record.ID{id})
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	p := replay.Player{Out: t.stdout, Speed: *speed, NoDelay: *noDelay, Idle: *idle, Wire: *wire, Screen: t.terminal}
	if *step {
		p.Next = t.steps()
	}
	var late []time.Duration
	if *timing {
		p.Late = func(d time.Duration) { late = append(late, d) }
	}
	if err := p.Play(ctx, transcript.Of(sessions[0])); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	if *timing {
		fmt.Fprintln(t.stderr, lateness(late))
	}
	return nil
}

// steps returns what waits for a line from whoever plays; "q", and the end of the input, end the playing.
func (t *tally) steps() func(context.Context) error {
	if t.terminal {
		fmt.Fprintln(t.stderr, "The return key goes on; q and the return key end it.")
	}
	lines := make(chan string)
	go func() { // ends with the process: a read from a terminal cannot be broken off
		defer close(lines)
		for in := bufio.NewScanner(t.stdin); in.Scan(); {
			lines <- in.Text()
		}
	}()
	return func(ctx context.Context) error {
		select {
		case line, ok := <-lines:
			if !ok || strings.TrimSpace(line) == "q" {
				return io.EOF
			}
			return nil
		case <-ctx.Done():
			return io.EOF
		}
	}
}

// lateness says how late events were played.
func lateness(late []time.Duration) string {
	if len(late) == 0 {
		return "no events were played"
	}
	slices.Sort(late)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf("%d events were played %.3f ms after their time in the median, %.3f ms at most, and none before", len(late), ms(late[len(late)/2]), ms(late[len(late)-1]))
}
