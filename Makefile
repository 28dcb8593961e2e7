# ReplicatedDB. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

export REPLICATEDDB_CACHE ?= $(HOME)/.cache/replicateddb
export CARGO_TARGET_DIR ?= $(REPLICATEDDB_CACHE)/target
# passed on to the scripts when given: make images REGISTRY=... TAG=...
export REGISTRY TAG CLUSTER CLUSTER_NAME WORKERS

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
