# `make` alone lists the targets.

# The version that the binary reports: the tag, or how far past it we are.
VERSION = $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Nothing here needs a C compiler, except the race detector, which scripts/test
# switches on by itself.
export CGO_ENABLED = 0

TOOL = go tool -modfile=tools/go.mod

.DEFAULT_GOAL := help
.PHONY: help test check fmt build bench chaos vuln clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: ## everything, as CI runs it: both databases, a browser, the race detector
	@scripts/test

check: ## the quick part, for every save: format, vet, staticcheck, import rules, tests on SQLite
	@scripts/test quick

fmt: ## format every Go file
	$(TOOL) gofumpt -l -w .

build: ## the static binary, bin/sallyport
	go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/sallyport ./cmd/sallyport

bench: ## the benchmarks, as ratios
	./bench/run

chaos: ## what breaks, broken under load: half an hour; CHAOS_KILLS=200 CHAOS_SOAK=1h for longer
	go run ./bench/chaos

vuln: ## known vulnerabilities in what we depend on
	@scripts/vuln

clean: ## remove what the other targets made
	rm -rf bin .cache
