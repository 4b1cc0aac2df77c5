// Command beside runs a command beside a Vault of its own, which is in its development mode: unsealed, in memory, forgotten
// at the end. The engine transit is enabled, and KV v2 is at secret/, as always there. The command finds VAULT_ADDR and
// VAULT_TOKEN, the root's, in its environment.
//
//	beside VAULT-BINARY COMMAND [ARGUMENT…]
//
// Vault ends when the command has, and not before: an interrupt from the terminal does not reach it.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: beside VAULT-BINARY COMMAND [ARGUMENT…]")
		os.Exit(64)
	}
	err := run(os.Args[1], os.Args[2:])
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		os.Exit(exit.ExitCode()) // it has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "beside:", err)
		os.Exit(1)
	}
}

func run(bin string, command []string) error {
	// Interrupts are for the command, which has them from the terminal, or from here when they come to this process alone.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	address, err := place("127.0.0.1:8200", "127.0.0.1:0")
	if err != nil {
		return err
	}
	token := "dev-" + rand.Text()
	home, err := os.MkdirTemp("", "tallystick-vault-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	var said bytes.Buffer
	server := exec.Command(bin, "server", "-dev", "-dev-no-store-token", "-dev-root-token-id="+token, "-dev-listen-address="+address)
	server.Env = append(os.Environ(), "VAULT_ADDR=", "VAULT_TOKEN=", "HOME="+home)
	server.Stdout, server.Stderr = &said, &said // read when it has ended
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := server.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { server.Wait(); close(ended) }()
	defer func() { server.Process.Kill(); <-ended }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for ready(ctx, "http://"+address, token) != nil {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ended:
			return fmt.Errorf("%s ended: %s", bin, said.String())
		case <-interrupted:
			return errors.New("interrupted")
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer at %s", bin, address)
		}
	}
	fmt.Printf("A Vault in its development mode is at http://%s, with the token %s. It forgets everything at the end.\n", address, token)
	c := exec.Command(command[0], command[1:]...)
	c.Env = append(os.Environ(), "VAULT_ADDR=http://"+address, "VAULT_TOKEN="+token)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := c.Start(); err != nil {
		return err
	}
	go func() {
		for s := range interrupted {
			c.Process.Signal(s)
		}
	}()
	return c.Wait()
}

// place returns the first of some addresses that is free.
func place(addresses ...string) (address string, err error) {
	for _, a := range addresses {
		var ln net.Listener
		if ln, err = net.Listen("tcp", a); err == nil {
			defer ln.Close()
			return ln.Addr().String(), nil
		}
	}
	return "", err
}

// ready enables the engine transit, when the engine that Vault makes last is there.
func ready(ctx context.Context, url, token string) error {
	for _, q := range []struct{ method, path, body string }{
		{http.MethodGet, "secret/config", ""},
		{http.MethodPost, "sys/mounts/transit", `{"type":"transit"}`},
	} {
		r, err := http.NewRequestWithContext(ctx, q.method, url+"/v1/"+q.path, strings.NewReader(q.body))
		if err != nil {
			return err
		}
		r.Header.Set("X-Vault-Token", token)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode >= 300 {
			return fmt.Errorf("%s: %s", q.path, resp.Status)
		}
	}
	return nil
}
