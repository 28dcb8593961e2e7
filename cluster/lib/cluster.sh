# shellcheck shell=bash
# The choice of cluster, shared by cluster/{up,down,load-images,env}. Source after common.sh and engine.sh.

CLUSTER=${CLUSTER:-auto}              # auto | registry | built | existing
CLUSTER_NAME=${CLUSTER_NAME:-replicateddb}
WORKERS_ASKED=${WORKERS:-}            # a cluster that is there is kept, whatever its workers, unless a number is asked for
WORKERS=${WORKERS:-2}
CLUSTER_STATE=$CACHE_ROOT/clusters/$CLUSTER_NAME   # kubeconfig and env of the cluster

case $CLUSTER in auto | registry | built | existing) ;; *) die "CLUSTER must be auto, registry, built or existing, not '$CLUSTER'" ;; esac
[[ $WORKERS =~ ^[0-9]$ ]] || die "WORKERS must be a number from 0 to 9, not '$WORKERS'"

cgroup_v2() { [ -f /sys/fs/cgroup/cgroup.controllers ]; }

# Prints "registry" or "built" and says why. Needs an engine.
choose_kind() {
  local choice=$CLUSTER why="asked for by CLUSTER"
  if [ "$choice" = auto ]; then
    if ! registry_reachable; then choice=built why="no image registry can be reached"
    elif ! cgroup_v2; then choice=built why="kind's own node image wants cgroup v2, which this host lacks"
    else choice=registry why="an image registry can be reached"; fi
  fi
  if [ "$choice" = registry ]; then log "cluster: kind with its own node image ($why)"
  else log "cluster: kind with a node image built from distribution packages and Go modules ($why)"; fi
  if [ "$choice" = built ] && cgroup_v2; then
    die "this host has cgroup v2, for which no node image is built here. Let Docker reach an image registry (a mirror in its settings is enough, then CLUSTER=registry), or use a cluster that you have: CLUSTER=existing"
  fi
  echo "$choice"
}

cluster_exists() { kind get clusters 2> /dev/null | grep -qx "$CLUSTER_NAME"; }
# The programs on PATH, from the cache.
use_binaries() { # NAME...
  local bin; bin=$("$REPO_ROOT/cluster/binaries" "$@")
  export PATH=$bin:$PATH
}

write_env() { # what `cluster/env` prints
  mkdir -p "$CLUSTER_STATE"
  { echo "export KUBECONFIG=$(printf %q "$CLUSTER_STATE/kubeconfig")"
    [ -z "${DOCKER_HOST:-}" ] || echo "export DOCKER_HOST=$(printf %q "$DOCKER_HOST")"
    [ -z "${DOCKER_BUILDKIT:-}" ] || echo "export DOCKER_BUILDKIT=$DOCKER_BUILDKIT"
    echo "export PATH=$(printf %q "$("$REPO_ROOT/cluster/binaries" kubectl helm kind)"):\$PATH"; } > "$CLUSTER_STATE/env"
}

# An existing cluster's nodes pull images: without the registry's name, minutes of building would be for nothing.
need_registry() {
  [ "$CLUSTER" != existing ] || { [ -n "${REGISTRY:-}" ] && [ -n "${TAG:-}" ]; } ||
    die "CLUSTER=existing needs REGISTRY=registry.example.com/team and TAG=...: images are pushed there and its nodes pull them"
}
