# ReplicatedDB. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

export REPLICATEDDB_CACHE ?= $(HOME)/.cache/replicateddb
export CARGO_TARGET_DIR ?= $(REPLICATEDDB_CACHE)/target
# What is given on the command line, make passes on to the scripts by itself: make images REGISTRY=... TAG=...

.PHONY: help
help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: cluster
cluster: ## a Kubernetes cluster for the demo and tests [CLUSTER=existing]
	@cluster/up

.PHONY: cluster-down
cluster-down: ## deletes that cluster; leaves nothing running
	@cluster/down

.PHONY: images
images: ## builds the container images; with REGISTRY=... [TAG=...] also pushes them
	@images/build

.PHONY: demo
demo: ## the whole of it on a real cluster: applied, written to, pods deleted, recovered, compared
	@tests/demo

.PHONY: cqlsh
cqlsh: ## a CQL shell of the demo's database, or of make local [WHERE=demo|local]
	@tests/cqlsh $(WHERE)

.PHONY: test
test: ## all tests; one part alone: make test-unit test-operator test-chart test-local test-drivers test-kind [ONLY="NAME ..."] [ENGINE=ZnodeLog]
	@tests/run

.PHONY: test-unit test-operator test-chart test-local test-drivers test-kind
test-unit test-operator test-chart test-local test-drivers test-kind: test-%:
	@tests/run $*

.PHONY: fuzz
fuzz: ## everything that reads bytes from outside, given any bytes, guided by coverage [ARGS="--runs N --seconds N --only NAME --keep"]
	@tests/fuzz/run $(ARGS)

.PHONY: lint
lint: ## formatting, clippy, shell scripts; writes nothing
	@tests/lint

.PHONY: deny
deny: ## the dependency policy of deny.toml; installs cargo-deny into the cache the first time
	@[ -x $(REPLICATEDDB_CACHE)/tools/bin/cargo-deny ] || cargo install --locked --quiet --root $(REPLICATEDDB_CACHE)/tools cargo-deny@0.20.2
	@$(REPLICATEDDB_CACHE)/tools/bin/cargo-deny --locked --log-level error check bans licenses sources

.PHONY: figures
figures: ## measures one replica of a local stack: rates, latencies, memory, CPU (nothing else should run)
	@images/artifacts/fetch.sh
	@cargo build --release --locked -p replicateddb-server
	@cargo tools -p replicateddb-local -p replicateddb-tests
	@$(CARGO_TARGET_DIR)/release/replicateddb-figures $(ARGS)

.PHONY: bench
bench: ## three replicas against three plain Cassandra nodes: rates, latencies, CPU [ARGS="--seconds N --rounds N --only NAME"]
	@images/artifacts/fetch.sh
	@cargo build --release --locked -p replicateddb-server
	@cargo tools -p replicateddb-bench
	@$(CARGO_TARGET_DIR)/release/replicateddb-bench $(ARGS)

.PHONY: local
local: ## the stack as processes of this machine [REPLICAS=3] [ENGINE=ZnodeLog] [SHARED_CASSANDRA=1: one for all replicas] [AUTHENTICATION=1: clients log in] [TLS=1: clients use TLS] [ARGS="..."]
	@images/artifacts/fetch.sh
	@cargo build --release --locked -p replicateddb-server
	@cargo tools -p replicateddb-local
	@$(CARGO_TARGET_DIR)/release/replicateddb-local up $(if $(REPLICAS),--replicas $(REPLICAS)) $(if $(ENGINE),--engine $(ENGINE)) $(if $(filter-out 0,$(SHARED_CASSANDRA)),--shared-cassandra) $(if $(filter-out 0,$(AUTHENTICATION)),--authentication) $(if $(filter-out 0,$(TLS)),--tls) $(ARGS)

.PHONY: local-down
local-down: ## stops it; its data stays
	@$(CARGO_TARGET_DIR)/release/replicateddb-local down
