# weft: `make` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 4000x
SEEDS ?= 1000
BENCH_HOSTS ?= 3 10 25 50 200

.PHONY: help build demo test check unit bubbles sim sim-ipam bench integration fuzz lint image deps-demo deps-test deps-bench-dns bench-dns freshness clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

build: ## build bin/weft, a static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/weft ./cmd/weft

demo: deps-demo build ## three hosts on this machine, named workloads, the wire watched (root)
	./bin/weft demo

test: deps-test lint unit bubbles fuzz integration ## everything that CI runs (root)

check: ## what needs neither root nor Docker: fast
	$(GO) vet ./...
	CI= $(GO) test -short ./api ./cmd/... ./dns ./ipam ./mesh ./router ./internal/statedb

unit: ## unit and kernel tests of every package but integration, with the race detector (root)
	$(GO) test -race -timeout 5m $$($(GO) list ./... | grep -v /integration)

bubbles: ## simulations in virtual time, without the race detector (see docs/decisions.md)
	$(GO) test -timeout 15m ./mesh/... ./internal/simnet/...
	$(GO) test -timeout 5m ./ipam -rapid.checks=200

sim: sim-ipam ## more random stories of hosts (`make sim SEEDS=10000`), or one again, told at length (`make sim SEED=17`)
	SEEDS=$(SEEDS) SEED=$(SEED) $(GO) test -timeout 0 -count 1 -v -run '^TestSimulations$$' ./mesh | grep -vE '^ *(=== RUN|--- PASS)'

bench: ## measure meshes of 3 to 200 hosts in virtual time (`make bench BENCH_HOSTS="3 50"`; 1000 takes 20 minutes and up to 24 GB)
	@BENCH_HOSTS="$(BENCH_HOSTS)" $(GO) test -timeout 0 -count 1 -v -run '^TestBench$$' ./mesh | grep -vE '^(=== RUN|--- PASS|PASS)'

sim-ipam: ## more random stories of the ring alone; a failure prints how to run it again
	$(GO) test -timeout 0 -count 1 -run '^(TestModel|TestElectionAtRandom)$$' ./ipam -rapid.checks=$(SEEDS)

integration: build ## black box: the built binary on hosts with real Docker engines (root)
	WEFT_BINARY=$(CURDIR)/bin/weft $(GO) test -timeout 15m -parallel 3 ./integration/...

fuzz: ## every fuzz target, 4000 inputs each (`make fuzz FUZZTIME=10m` at length)
	@./scripts/fuzz.sh $(FUZZTIME)

bench-dns: deps-bench-dns ## the name server beside CoreDNS, dnsmasq, unbound and a bare echo (minutes)
	$(GO) build -o bin/benchdns ./internal/benchdns
	cd internal/benchdns/coredns && $(GO) build -o $(CURDIR)/bin/coredns .
	./bin/benchdns -coredns ./bin/coredns $(BENCHDNS)

freshness: deps-test build ## a thousand starts and stops of containers, seen by name on other hosts (root, long)
	WEFT_FRESHNESS=$${WEFT_FRESHNESS:-1000} WEFT_BINARY=$(CURDIR)/bin/weft $(GO) test -v -timeout 3h -run TestFreshness ./integration/...

lint: ## formatting, vet, staticcheck, tidy modules
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'run gofmt -w on these'; exit 1; }
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(GO) run $(STATICCHECK) ./...

image: build ## the container image weft:latest, from the binary made here; needs no registry
	docker build --target binary -t weft:latest .

deps-demo: ## install by apt what the demo needs
	@./scripts/deps.sh demo

deps-test: ## install by apt what the tests need
	@./scripts/deps.sh test

deps-bench-dns:
	@./scripts/deps.sh bench-dns

clean: ## remove what make made
	rm -rf bin
