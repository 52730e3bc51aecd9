# The two commands most people want are `make demo` and `make test`. `make help` lists the others.
#
# demo, test and bench work on a fresh Debian or Ubuntu: as root they first install what is missing (scripts/setup).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

GO      := scripts/go
PREFIX  ?= /usr/local
DESTDIR ?=
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

# Where things are built: bin/ is for people, .build/ for the tests. Test programs are never built with the race
# detector, as it makes them too slow and too strange to be ordinary programs.
PRODUCTS := ./cmd/ssagent ./cmd/ssctl
PROGRAMS := ./integration/progs/words ./integration/progs/ring ./integration/progs/tree ./integration/progs/echo ./integration/progs/counter ./integration/progs/redial
TOOLS    := $(CURDIR)/.build/tools

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## watch a job survive the death of a host (root)
	@scripts/setup demo
	@$(MAKE) --no-print-directory build programs
	@SS_BIN=.build/bin $(GO) run ./integration/demo

.PHONY: test
test: ## run every test, integration included (root)
	@scripts/test

.PHONY: test-race
test-race: ## run every integration test with agents that the race detector watches (root; over an hour)
	@scripts/test race

.PHONY: test-fuzz
test-fuzz: ## give each reader of what comes from outside a million inputs (root, an hour; SS_FUZZ)
	@SS_FUZZ=$${SS_FUZZ:-1000000} scripts/test fuzz

.PHONY: check
check: ## run the fast tests: under a minute, no root
	@scripts/check

.PHONY: real-programs
real-programs: ## take snapshots of ordinary server software under load, and move it (root; SS_PROGRAMS, SS_PROGRAMS_ROUNDS)
	@scripts/setup programs
	@$(MAKE) --no-print-directory build programs
	@SS_PROGRAMS=$${SS_PROGRAMS:-all} SS_PROGRAMS_ROUNDS=$${SS_PROGRAMS_ROUNDS:-1} SS_BIN=$(CURDIR)/.build/bin \
	  $(GO) test ./integration -count=1 -v -run '^TestPrograms$$' -timeout 2h

.PHONY: partitions
partitions: ## restore under 200 one-way partitions (root)
	@scripts/setup test
	@$(MAKE) --no-print-directory build programs
	@SS_BIN=$(CURDIR)/.build/bin SS_PARTITIONS=200 $(GO) test ./integration -count=1 -timeout 60m -v -run 'TestRestoreUnderOneWayPartitions$$'

.PHONY: test-memory
test-memory: build programs ## compare memory that was copied while programs ran with CRIU's, for 50 seeds, and kill whoever copies (root)
	@scripts/setup test
	@SS_MEMORY_SEEDS=50 SS_MEMORY_KILLS=200 $(GO) test ./agent/memory -count=1 -timeout 60m -v
	@SS_BIN=$(CURDIR)/.build/bin SS_MEMORY_FAULTS=100 SS_MEMORY_CUTS=20 $(GO) test ./integration -count=1 -timeout 60m -v -run 'Test(Faults|Cuts)OfTrackedMemory$$'

.PHONY: bench
bench: ## measure a snapshot against a bare dump, and the store against plain copies (root)
	@scripts/setup bench
	@$(MAKE) --no-print-directory build programs
	@SS_BIN=.build/bin $(GO) run ./integration/bench
	@$(MAKE) --no-print-directory bench-store

.PHONY: bench-memory
bench-memory: ## measure snapshots of members whose memory is copied while they run, 60 cuts in 60 seconds, and what programs feel of it (root)
	@scripts/setup bench
	@$(MAKE) --no-print-directory build programs
	@SS_BIN=.build/bin $(GO) run ./integration/bench -write 64 -sizes 512,2048,4096 -large 0
	@SS_BIN=.build/bin $(GO) run ./integration/bench -write 20000 -sizes 512 -large 0
	@SS_BIN=.build/bin $(GO) run ./integration/bench -cuts 60
	@$(GO) test ./agent/memory -run '^$$' -bench 'Felt|Still' -benchtime 5x

.PHONY: bench-files
bench-files: ## measure what a sparse file of 10 GiB on Btrfs adds to a member's standstill (root)
	@scripts/setup bench
	@$(MAKE) --no-print-directory build programs
	@SS_BIN=.build/bin $(GO) run ./integration/bench -file 10

.PHONY: bench-store
bench-store: ## measure the store against plain copies alone
	@CGO_ENABLED=0 $(GO) test -c -o .build/bin/storebench ./store/images
	@.build/bin/storebench -table

.PHONY: bench-cores
bench-cores: ## play snapshots and restores of 10 to 10,000 hosts in memory: messages, bytes, steps, time
	@scripts/bench-cores

.PHONY: jobs soak
jobs: ## run 2,000 random jobs: cuts, restores in place, moves (root, hours; SS_JOBS, SS_JOBS_SEED)
	@scripts/setup test
	@$(MAKE) --no-print-directory build programs
	@SS_JOBS=$${SS_JOBS:-2000} SS_JOBS_SEED=$${SS_JOBS_SEED:-$$(date +%s)} SS_BIN=$(CURDIR)/.build/bin $(GO) test ./integration -count=1 -v -run '^TestRandomJobs$$' -timeout 6h

soak: ## take 200 snapshots of one job and move it 50 times (root; SS_SOAK_SNAPSHOTS, SS_SOAK_RESTORES)
	@scripts/setup test
	@$(MAKE) --no-print-directory build programs
	@SS_SOAK_SNAPSHOTS=$${SS_SOAK_SNAPSHOTS:-200} SS_SOAK_RESTORES=$${SS_SOAK_RESTORES:-50} SS_SOAK_SEED=$${SS_SOAK_SEED:-$$(date +%s)} SS_BIN=$(CURDIR)/.build/bin \
	  $(GO) test ./integration -count=1 -v -run '^TestSoak$$' -timeout 2h

# 94ec08b is the last version that says nothing of its protocol. OLD names another one.
.PHONY: upgrade
upgrade: ## upgrade a cluster of the programs of 94ec08b, and in the midst of its work (root; needs the history)
	@scripts/setup test
	@$(MAKE) --no-print-directory build programs
	@scripts/build-old $${OLD:-94ec08b} $(CURDIR)/.build/old
	@SS_OLD_BIN=$(CURDIR)/.build/old SS_BIN=$(CURDIR)/.build/bin $(GO) test -tags upgrade ./integration -count=1 -v -run '^TestUpgrade' -timeout 30m

.PHONY: build
build: ## build ssagent and ssctl into bin/
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(PRODUCTS)
	@mkdir -p .build/bin && cp bin/ssagent bin/ssctl .build/bin/

.PHONY: programs
programs: ## build the programs that tests take snapshots of
	@CGO_ENABLED=0 $(GO) build -o .build/bin/ $(PROGRAMS)

.PHONY: install
install: build ## install the programs and the systemd unit below PREFIX
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/lib/systemd/system'
	install -m 0755 bin/ssagent bin/ssctl '$(DESTDIR)$(PREFIX)/bin/'
	install -D -m 0644 NOTICE '$(DESTDIR)$(PREFIX)/share/doc/ss/NOTICE'
	sed 's|@bindir@|$(PREFIX)/bin|' packaging/ssagent.service.in > '$(DESTDIR)$(PREFIX)/lib/systemd/system/ssagent.service'

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## check format, vet, static analysis and import rules
	@PATH="$$($(GO) env GOROOT)/bin:$$PATH" $(TOOLS)/golangci-lint run ./...
	@echo 'PASS: lint'

.PHONY: vuln
vuln: $(TOOLS)/govulncheck ## compare what the programs call with the Go vulnerability database (needs to reach it, or GOVULNDB)
	@scripts/vuln

.PHONY: generate
generate: $(TOOLS)/buf ## generate Go from the .proto files
	@$(GO) build -o $(TOOLS)/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	@cd api/proto && PATH="$(TOOLS):$$PATH" $(TOOLS)/buf generate --template ../../tools/buf.gen.yaml
	@echo 'PASS: generate'

# Tools are built once, from the versions that tools/go.mod pins.
$(TOOLS)/golangci-lint: tools/go.mod tools/go.sum
	@echo 'building golangci-lint (a few minutes, once)'
	@$(GO) -C tools build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(TOOLS)/govulncheck: tools/go.mod tools/go.sum
	@$(GO) -C tools build -o $@ golang.org/x/vuln/cmd/govulncheck
$(TOOLS)/buf: tools/go.mod tools/go.sum
	@echo 'building buf (a few minutes, once)'
	@$(GO) -C tools build -o $@ github.com/bufbuild/buf/cmd/buf
# An S3 server, which store/blob is tested against.
$(TOOLS)/versitygw: tools/go.mod tools/go.sum
	@echo 'building versitygw (a minute, once)'
	@$(GO) -C tools build -o $@ github.com/versity/versitygw/cmd/versitygw
# Readers of CRIU's images that are not ours, which exports are tried with.
$(TOOLS)/checkpointctl: tools/go.mod tools/go.sum
	@$(GO) -C tools build -o $@ github.com/checkpoint-restore/checkpointctl
$(TOOLS)/crit: tools/go.mod tools/go.sum
	@$(GO) -C tools build -o $@ github.com/checkpoint-restore/go-criu/v8/crit/cmd

.PHONY: vault-server test-tools
vault-server: $(TOOLS)/versitygw ## build the S3 server that tests need
test-tools: $(TOOLS)/versitygw $(TOOLS)/checkpointctl $(TOOLS)/crit ## build all programs of others that tests need

.PHONY: clean-hosts
clean-hosts: ## remove what killed test runs have left
	@$(GO) run ./integration/lab/cmd/cleanhosts

.PHONY: clean
clean: clean-hosts ## remove what was built
	@rm -rf bin .build
