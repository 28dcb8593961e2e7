# shellcheck shell=bash
# Functions shared by the scripts of cluster/ and images/. Source it; it runs nothing by itself.
# The caller has set `set -euo pipefail`.

REPO_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Everything that is built or fetched, kept across clones.
CACHE_ROOT=${REPLICATEDDB_CACHE:-$HOME/.cache/replicateddb}
STARTED_AT=${STARTED_AT:-$(date +%s)}
# Longest wait for another copy of a script that holds the same lock; building everything cold takes about half an hour.
readonly LOCK_WAIT_SECONDS=3600
# Longest wait for the package manager's own lock.
readonly APT_LOCK_SECONDS=600

# Says a step on stderr with the seconds since the script's start; stdout is for results.
log() { printf '[%4ds] %s\n' "$(($(date +%s) - STARTED_AT))" "$*" >&2; }
die() { log "error: $*"; exit 1; }
have() { command -v "$1" > /dev/null 2>&1; }

# with_log FILE COMMAND...: runs it with its output in FILE; on failure shows the end of it.
with_log() {
  local file=$1; shift
  mkdir -p "$(dirname "$file")"
  if ! "$@" > "$file" 2>&1 < /dev/null; then
    tail -n 30 "$file" >&2
    log "failed: $* (log: $file)"
    return 1
  fi
}

# locked NAME COMMAND...: one such command at a time for this cache root, whichever clone runs it. COMMAND may be a function.
locked() {
  local name=$1; shift
  mkdir -p "$CACHE_ROOT/locks"
  (
    flock -n 9 || { log "waiting for another run of '$name'"; flock -w "$LOCK_WAIT_SECONDS" 9 || die "'$name' is still locked"; }
    "$@"
  ) 9> "$CACHE_ROOT/locks/$name"
}

# hash_of PATH...: 12 hex digits that change when a file (or a file below a folder), its name or its mode bits do.
hash_of() {
  local path
  for path in "$@"; do
    (cd "$(dirname "$path")" && find "$(basename "$path")" -type f -printf '%p %m\n' -exec sha256sum {} \;)
  done | LC_ALL=C sort | sha256sum | cut -c1-12
}

# apt_install COMMAND=PACKAGE...: installs the packages whose commands are missing. Needs root and apt; otherwise names what is missing.
apt_install() {
  local pair missing=()
  for pair in "$@"; do have "${pair%%=*}" || missing+=("${pair#*=}"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  apt_packages "${missing[@]}"
}

# apt_packages PACKAGE...: installs packages unconditionally.
apt_packages() {
  { [ "$(id -u)" = 0 ] && have apt-get; } || die "please install: $* (not root, or no apt here)"
  log "installing packages: $*"
  mkdir -p "$CACHE_ROOT/logs"
  local apt=(apt-get -o "DPkg::Lock::Timeout=$APT_LOCK_SECONDS" -q -y)
  with_log "$CACHE_ROOT/logs/apt-update.log" "${apt[@]}" update || log "package lists not refreshed, trying with the present ones"
  DEBIAN_FRONTEND=noninteractive with_log "$CACHE_ROOT/logs/apt-install.log" "${apt[@]}" install --no-install-recommends "$@"
}

# Prints the path of a Java 17 `java`, installing a headless JRE where that is possible.
java17() {
  local candidate
  for candidate in ${JAVA_HOME:+"$JAVA_HOME/bin/java"} /usr/lib/jvm/java-17-openjdk-*/bin/java /usr/lib/jvm/*17*/bin/java "$(command -v java || true)"; do
    [ -x "$candidate" ] || continue
    if "$candidate" -version 2>&1 | grep -q 'version "17'; then echo "$candidate"; return 0; fi
  done
  [ -n "${1:-}" ] && return 1   # second try, after installing
  apt_packages openjdk-17-jre-headless
  java17 again
}
