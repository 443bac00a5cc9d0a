# Countersign: build, test, lint. `make help` lists the targets.

SHELL      := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO         ?= go
BIN        := bin/countersign
VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || cat VERSION 2>/dev/null || echo dev)
CGO_ENABLED ?= 0
LDFLAGS    := -s -w -X main.version=$(VERSION)

# Test packages that run at the same time, and the time limit of each: several times the longest run on two idle cores.
TEST_PROCS   ?= 2
TEST_TIMEOUT ?= 45m
TEST_FLAGS   ?=
FUZZTIME     ?= 60s
# The race detector, except in packages that compute for most of the time and are not ours: with it SQLite is six times
# slower. These packages instantiate no generic types of other packages. One that does, such as modernc.org/sqlite, must stay
# instrumented: the linker may use its instances in all packages, and the detector would miss their synchronization.
UNRACED      := modernc.org/sqlite/lib modernc.org/libc modernc.org/memory golang.org/x/crypto/blowfish
RACE         := -race $(UNRACED:%=-gcflags=%=-race=false)
SLOW         = $(sort $(dir $(shell grep -rl --include='*_test.go' 'slowtest\.\(Only\|Enabled\)' .)))
BENCH_FLAGS  ?=

.PHONY: help build man run test test-slow slow postgres unit integration lint bench fuzz soak clean tools

help: ## list all targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

build: ## build bin/countersign (static, without cgo); CGO_ENABLED=1 adds support for PKCS #11 tokens
	CGO_ENABLED=$(CGO_ENABLED) $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) .

man: build ## write the manual page to bin/man and the completion scripts to bin/completion
	mkdir -p bin/man bin/completion
	$(BIN) man > bin/man/countersign.1
	for shell in bash zsh fish; do $(BIN) completion $$shell > bin/completion/countersign.$$shell; done

run: build ## build and start the registry with its defaults
	exec $(BIN) serve

tools: ## install the programs that tests run (on Debian, as root), or list those that are missing
	tools/install-test-tools.sh

test: tools ## run the tests of packages, with the race detector, and of the binary with real clients
	$(MAKE) -j2 --output-sync=target TEST_PROCS=1 unit integration

test-slow: tools ## run the tests that take too long for make test, and the tests on PostgreSQL
	$(MAKE) slow
	$(MAKE) postgres

slow:
	COUNTERSIGN_TEST_SLOW=1 $(GO) test -count=1 -run '^TestSlow' -p $(TEST_PROCS) -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) $(SLOW)

postgres: ## run the tests of the packages that use the database, and the sign-images stories, on PostgreSQL
	COUNTERSIGN_TEST_DATABASE=postgres $(GO) test -shuffle=on -p $(TEST_PROCS) -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) \
	  ./internal/store/... ./internal/admin ./api ./proxy ./tasks ./tasks/jobs ./internal/app/matrix
	COUNTERSIGN_TEST_DATABASE=postgres $(GO) test -run 'Seed|ContentManagement' -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) ./integration

unit: ## run the tests of packages only
	CGO_ENABLED=1 $(GO) test $(RACE) -shuffle=on -p $(TEST_PROCS) -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) \
	  $$($(GO) list ./... | grep -vE '/(integration|bench)(/|$$)')

integration: tools ## run the tests of the binary with real clients only
	$(GO) test -count=1 -shuffle=on -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) ./integration/...

lint: ## run gofmt, go vet and golangci-lint
	tools/lint.sh

bench: ## compare the speed with the registry distribution, and print a table
	$(GO) run ./bench $(BENCH_FLAGS)

fuzz: ## run each fuzz target for FUZZTIME (60s)
	tools/fuzz.sh $(FUZZTIME)

soak: tools ## run the load and crash tests for hours
	COUNTERSIGN_SOAK=1 $(GO) test -count=1 -v -timeout 6h -run '^Test(Scale|Crash|NothingIsLost|PostgresIsAway|RedisIsAway)' $(TEST_FLAGS) ./integration

clean: ## delete build results
	rm -rf bin .cache
