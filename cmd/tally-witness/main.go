// Command tally-witness is the third party's: it cosigns the checkpoints of logs that it has never seen an entry of, and
// asks other witnesses whether they do that as they should. See tally-witness --help.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
