# Tallystick. `make` alone says what there is.

GO ?= go
BIN := bin

.PHONY: help build run test crash vault masks fuzz bench race lint clean peers browser

help:
	@echo "make run      the demo, from nothing: gateway, log and a fake model on this machine; VAULT=1: with its keys in a Vault"
	@echo "make test     everything that must hold, in a quarter of an hour at most"
	@echo "make peers    of that, what needs others' code: SDKs, identity providers, other witnesses and logs"
	@echo "make browser  a Chromium, which the tests of the console need, where it is missing (Debian, as root)"
	@echo "make build    bin/tally, bin/tally-verify, bin/tally-witness, bin/tally-bench"
	@echo "make bench    how fast, as ratios to raw Pebble and to calling the model directly; VAULT=1: through a Vault, too"
	@echo "make crash    kill -9 under load, 200 times (CRASHES=n)"
	@echo "make vault    keys, anchors and log-ins against HashiCorp Vault itself, which is built once (a quarter of an hour)"
	@echo "make masks    every value that must be masked, in every spelling, split into three events everywhere (some minutes)"
	@echo "make fuzz     every fuzz target for a while (FUZZTIME=30s)"
	@echo "make race     the tests under the race detector (needs a C compiler)"
	@echo "make lint     gofmt, vet, and govulncheck where its database can be reached"
	@echo "make clean    remove what was built"

build:
	$(GO) build -o $(BIN)/ ./cmd/...

# Vault is built at the version that keys/peers/vault/go.mod pins, where the user's caches lie, and is $$bin from there on.
VAULTS ?= $${XDG_CACHE_HOME:-$$HOME/.cache}/tallystick
VAULTBIN = v=$$(cd keys/peers/vault && $(GO) list -m -f '{{.Version}}' github.com/hashicorp/vault) && bin=$(VAULTS)/vault-$$v && mkdir -p $(VAULTS) && \
	  { [ -x $$bin ] || (cd keys/peers/vault && nice -n 19 $(GO) build -tags minimal -o $$bin github.com/hashicorp/vault); } &&

# What follows $(BESIDE) runs beside a Vault in its development mode, which ends after it and forgets everything.
BESIDE = $(VAULTBIN) (cd keys/peers && $(GO) build -o $(abspath $(BIN))/ ./beside) && $(BIN)/beside $$bin

run: build
ifeq ($(VAULT),)
	$(BIN)/tally demo
else
	@rm -rf demo-vault
	@$(BESIDE) $(BIN)/tally demo --vault --data demo-vault
endif

CRASHES ?= 200
FUZZTIME ?= 30s
# Modules of their own that bring in code we did not write: official SDKs, identity providers, other logs' checkers.
PEERS := gateway/peers gateway/peers/openid tlog/peers witness/peers keys/peers keys/peers/transit audit/peers bench/peers cmd/peers

test:
	@if [ "$$CI" = true ]; then $(MAKE) --no-print-directory browser; else ($(HASBROWSER)) || echo "no Chromium: what needs one is skipped; make browser installs it"; fi
	@test -z "$$(gofmt -l $$(git ls-files '*.go' 2>/dev/null || find . -name '*.go'))" || { echo "not gofmt-ed:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) test ./...
	$(GO) vet -tags kms_cloud ./keys/kms
	$(GO) test -tags kms_cloud ./keys/kms
	@for m in $(PEERS); do echo "== $$m"; (cd $$m && $(GO) vet ./... && $(GO) test ./...) || exit 1; done

peers:
	@for m in $(PEERS); do (cd $$m && $(GO) test -count=1 ./...) || exit 1; done

# Without a browser the tests that need one are skipped; where CI=true they fail.
HASBROWSER = for b in "$$CHROMIUM" chromium chromium-browser google-chrome; do if [ -n "$$b" ] && command -v "$$b" >/dev/null; then exit 0; fi; done; exit 1

browser:
	@if ($(HASBROWSER)); then exit 0; fi; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y --no-install-recommends chromium >/dev/null; \
	  else echo "no Chromium: install your system's package of it, or name one with CHROMIUM=/path/to/it" >&2; exit 1; fi

crash:
	CRASHES=$(CRASHES) $(GO) test -count=1 -timeout 60m -v -run TestKilled ./cmd/tally ./cmd/tally-witness

vault:
	@$(VAULTBIN) (cd keys/peers && VAULT=$$bin $(GO) test -tags vault -count=1 -timeout 30m ./...) && \
	  cd gateway/peers/openid && VAULT=$$bin $(GO) test -tags vault -count=1 -timeout 30m ./...

masks:
	MASKS=1 $(GO) test -count=1 -timeout 60m -v -run TestBypassesSplit ./tlog/record/mask

fuzz:
	@$(GO) list ./... | while read p; do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	    echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$p || exit 1; done; done

bench: build
ifeq ($(VAULT),)
	$(BIN)/tally-bench
else
	@$(BESIDE) $(BIN)/tally-bench
endif
	cd bench/peers && $(GO) run .

race:
	CGO_ENABLED=1 $(GO) test -race ./...

lint:
	@gofmt -l .
	$(GO) vet ./...
	@$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.1.4 ./... || echo "govulncheck did not run to its end: see above"

clean:
	rm -rf $(BIN)
