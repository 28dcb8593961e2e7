# shellcheck shell=bash
# The Docker engine that cluster/ and images/ use: the one that runs, or one of our own. Source after common.sh.

ENGINE=$CACHE_ROOT/docker            # our own engine: its data, sockets, pid files and logs
readonly OWN_DOCKER_HOST=unix://$ENGINE/docker.sock
# Longest wait for an engine to answer after its start, tenths of a second.
readonly ENGINE_START_TENTHS=600
# Longest try to fetch the base image before the image registry counts as unreachable.
readonly REGISTRY_TRY_SECONDS=${REGISTRY_TRY_SECONDS:-120}
readonly BASE_IMAGE=debian:bookworm-slim
readonly BASE_RELEASE=bookworm

# Whether our own dockerd or containerd runs. After a restart of the host its process id may be anybody's: the process must
# have its name, and must have been started with a file of ours.
alive() { # NAME
  local pid
  pid=$(cat "$ENGINE/$1.pid" 2> /dev/null) && [[ $pid =~ ^[0-9]+$ ]] || return 1
  [ "$(cat "/proc/$pid/comm" 2> /dev/null)" = "$1" ] && grep -qaF -- "$ENGINE/$1." "/proc/$pid/cmdline" 2> /dev/null
}
own_engine_runs() { alive dockerd; }
engine_answers() { have docker && timeout 20 docker info > /dev/null 2>&1; }

# Points the docker and kind commands at the engine to use, without starting one. False if none runs.
find_engine() {
  if own_engine_runs; then
    export DOCKER_HOST=$OWN_DOCKER_HOST DOCKER_BUILDKIT=0
    engine_answers
  else
    [ "${DOCKER_HOST:-}" != "$OWN_DOCKER_HOST" ] || unset DOCKER_HOST   # left over from an engine that was stopped
    engine_answers
  fi
}

# As find_engine, but starts our own engine where none runs and root may.
ensure_engine() {
  find_engine && return 0
  [ "$(id -u)" = 0 ] || die "no Docker engine answers, and only root may start one: start Docker, or set CLUSTER=existing"
  locked engine start_engine
  find_engine || die "the Docker engine does not answer (log: $ENGINE/dockerd.log)"
}

# Without CAP_SYS_RESOURCE no privileged container starts, unless the runtime is told to leave that capability out.
lacks_sys_resource() { (($((16#$(awk '/^CapBnd/{print $2}' /proc/self/status))) >> 24 & 1)) && return 1 || return 0; }

containerd_config() { # ROOT STATE SOCKET
  printf 'version = 2\nroot = "%s"\nstate = "%s"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "%s"\n' "$@"
}

start_engine() {
  own_engine_runs && return 0
  apt_install dockerd=docker.io docker=docker.io iptables=iptables
  engine_answers && return 0   # installing the package has started it, where there is an init system
  [ ${#OWN_DOCKER_HOST} -lt 100 ] || die "the path $ENGINE is too long for a socket: set REPLICATEDDB_CACHE to a shorter one"
  stop_engine   # a containerd whose dockerd died, and pid files from before a restart of the host
  log "no Docker engine runs: starting one of our own in $ENGINE"
  mkdir -p "$ENGINE"
  containerd_config "$ENGINE/containerd" "$ENGINE/containerd-state" "$ENGINE/containerd.sock" > "$ENGINE/containerd.toml"
  # 9>&- : the daemons must not inherit the lock
  setsid containerd --config "$ENGINE/containerd.toml" > "$ENGINE/containerd.log" 2>&1 < /dev/null 9>&- &
  echo $! > "$ENGINE/containerd.pid"
  local runtime=()
  if lacks_sys_resource; then runtime=(--add-runtime "fit=$REPO_ROOT/cluster/engine/runc-fit" --default-runtime fit --oom-score-adjust 0); fi
  setsid dockerd --data-root "$ENGINE/data" --exec-root "$ENGINE/exec" --pidfile "$ENGINE/dockerd.pid" \
    --containerd "$ENGINE/containerd.sock" --storage-driver overlay2 ${runtime[@]+"${runtime[@]}"} -H "$OWN_DOCKER_HOST" \
    > "$ENGINE/dockerd.log" 2>&1 < /dev/null 9>&- &
  local i
  for ((i = 0; i < ENGINE_START_TENTHS; i++)); do
    docker -H "$OWN_DOCKER_HOST" info > /dev/null 2>&1 && return 0
    sleep 0.1
  done
  tail -n 5 "$ENGINE/dockerd.log" >&2
  die "dockerd did not start"
}

# Stops our own engine, if it runs, and takes away what it leaves on the host. Its images stay on disk.
stop_engine() {
  local name i ran=""
  ! own_engine_runs || ran=1
  for name in dockerd containerd; do
    if alive "$name"; then
      kill "$(cat "$ENGINE/$name.pid")"
      for ((i = 0; i < 300; i++)); do alive "$name" || break; sleep 0.1; done
      ! alive "$name" || die "$name does not stop (pid $(cat "$ENGINE/$name.pid"))"
      log "stopped our own $name"
    fi
    rm -f "$ENGINE/$name.pid"
  done
  if [ -n "$ran" ]; then
    awk -v below="$ENGINE/" 'index($2, below) == 1 {print $2}' /proc/mounts | sort -r | xargs -r -n 1 umount || true
    ip link delete docker0 2> /dev/null || true
  fi
}

has_image() { docker image inspect "$1" > /dev/null 2>&1; }

# Whether images can be pulled, tried once per engine with the base image that everything here starts from.
registry_reachable() {
  if has_image "$BASE_IMAGE"; then
    [ -z "$(docker image inspect -f '{{index .Config.Labels "replicateddb.built"}}' "$BASE_IMAGE" 2> /dev/null)" ]
  else
    timeout "$REGISTRY_TRY_SECONDS" docker pull -q "$BASE_IMAGE" > /dev/null 2>&1
  fi
}

# Makes $BASE_IMAGE present: pulled, or built from distribution packages and given that name, so that the same Dockerfiles build.
ensure_base_image() {
  has_image "$BASE_IMAGE" && return 0
  registry_reachable && { log "base image $BASE_IMAGE pulled"; return 0; }
  log "no image registry can be reached: building the base image from distribution packages"
  locked base-image build_base_image
}

build_base_image() {
  has_image "$BASE_IMAGE" && return 0
  [ "$(id -u)" = 0 ] || die "building the base image from packages needs root"
  apt_install debootstrap=debootstrap
  local root mirror
  # shellcheck disable=SC2016  # apt's own variables
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' | awk -v r=$BASE_RELEASE '$2 == r && !n++ {print $1}')
  [ -n "$mirror" ] || die "this host's apt knows no mirror of Debian $BASE_RELEASE"
  mkdir -p "$CACHE_ROOT/build"
  root=$(mktemp -d "$CACHE_ROOT/build/base-XXXXXX")
  with_log "$CACHE_ROOT/logs/debootstrap.log" debootstrap --variant=minbase --include=ca-certificates $BASE_RELEASE "$root" "$mirror"
  # shellcheck disable=SC2016
  # the release, its updates and security updates as this host's apt has them
  apt-get indextargets --format 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
    grep -E " $BASE_RELEASE(-updates|-security)? " | sort -u > "$root/etc/apt/sources.list"
  slim_rootfs "$root"
  tar -C "$root" --numeric-owner -c . | docker import -c 'LABEL replicateddb.built=1' -c 'CMD ["bash"]' - "$BASE_IMAGE" > /dev/null
  rm -rf "$root"
  log "base image: $(image_size "$BASE_IMAGE")"
}

# Removes what no container needs, and tells dpkg and services to keep it so.
slim_rootfs() { # FOLDER
  printf '#!/bin/sh\nexit 101\n' > "$1/usr/sbin/policy-rc.d"; chmod +x "$1/usr/sbin/policy-rc.d"
  printf 'path-exclude /usr/share/%s/*\n' doc man locale info lintian > "$1/etc/dpkg/dpkg.cfg.d/slim"
  printf 'APT::Install-Recommends "false";\nAPT::Keep-Downloaded-Packages "false";\nAcquire::Languages "none";\n' > "$1/etc/apt/apt.conf.d/slim"
  rm -rf "$1"/var/cache/apt/*.bin "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/* "$1"/usr/share/{doc,man,locale,info}/* "$1"/var/log/*.log
}

image_size() { docker image inspect -f '{{.Size}}' "$1" | numfmt --to=si; }
