# Countersign: build, test, lint. `make help` lists the targets.

SHELL      := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO         ?= go
BIN        := bin/countersign
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || cat VERSION 2>/dev/null || echo dev)
CGO_ENABLED ?= 0
LDFLAGS    := -s -w -X main.version=$(VERSION)

# Package binaries that run at the same time, and the longest that one may take: several times what the longest takes on two idle cores.
TEST_PROCS   ?= 2
TEST_TIMEOUT ?= 45m
TEST_FLAGS   ?=
FUZZTIME     ?= 60s
BENCH_FLAGS  ?=

.PHONY: help build run test postgres unit integration lint bench fuzz soak clean tools

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

build: ## build bin/countersign (static, no cgo); with CGO_ENABLED=1 it can use PKCS #11 tokens
	CGO_ENABLED=$(CGO_ENABLED) $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) .

run: build ## build and start the registry on embedded defaults
	exec $(BIN) serve

tools: ## install what the tests use (Debian as root), or say what is missing
	tools/install-test-tools.sh

test: tools ## run every test: packages, the built binary with real clients, and what has a database on PostgreSQL too
	CGO_ENABLED=1 $(GO) test -race -shuffle=on -p $(TEST_PROCS) -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) ./...
	$(MAKE) postgres

postgres: ## run the suites of what has a database, and the seed stories, on PostgreSQL
	COUNTERSIGN_TEST_DATABASE=postgres $(GO) test -shuffle=on -p $(TEST_PROCS) -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) \
	  ./internal/store ./api ./proxy ./tasks ./tasks/jobs
	COUNTERSIGN_TEST_DATABASE=postgres $(GO) test -run 'Seed|ContentManagement' -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) ./integration

unit: ## run the packages' own tests only
	CGO_ENABLED=1 $(GO) test -race -shuffle=on -p $(TEST_PROCS) -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) \
	  $$($(GO) list ./... | grep -vE '/(integration|bench)(/|$$)')

integration: tools ## run the black-box tests only
	$(GO) test -count=1 -shuffle=on -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) ./integration/...

lint: ## gofmt, go vet, golangci-lint
	tools/lint.sh

bench: ## measure against bare distribution, interleaved, and print a table
	$(GO) run ./bench $(BENCH_FLAGS)

fuzz: ## run each fuzz target for FUZZTIME (60s)
	tools/fuzz.sh $(FUZZTIME)

soak: tools ## the long form of the load and kill tests
	COUNTERSIGN_SOAK=1 $(GO) test -count=1 -v -timeout 6h -run '^Test(Scale|Crash|NothingIsLost|PostgresIsAway|RedisIsAway)' $(TEST_FLAGS) ./integration

clean: ## remove what was built
	rm -rf bin .cache
