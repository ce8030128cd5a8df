# `make help` lists what there is. Everything is a script in scripts/, which says more.

.DEFAULT_GOAL := help
.PHONY: help setup build install demo test bench soak test-matrix lint fmt clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: ## install what is missing (apt; as root or with sudo)
	@scripts/setup

build: setup ## build the extension into a private copy of the PostgreSQL server
	@scripts/build

install: build ## into the installed server that was built for; PG_CONFIG=... names another
	@scripts/install $(PG_CONFIG)

demo: build ## the main job on real data, on a private server
	@scripts/demo

test: ## everything that must pass; CI runs exactly this
	@scripts/test

test-matrix: setup ## SQL, isolation and live tests on PostgreSQL 15, 16 and 18
	@scripts/test-matrix

bench: build ## speed and size; prints the table of docs/benchmarks.md
	@scripts/bench $(ARGS)

soak: setup ## the long versions of the tests, hours: make soak N=10000000; docs/reliability.md
	@scripts/soak $(N)

lint: setup ## formatting, clippy, layering, search_path and privileges
	@scripts/lint

fmt: ## format the sources
	@cargo fmt --all

clean: ## remove build output and this clone's scratch servers
	@scripts/clean
