# shellcheck shell=bash
# The Python environment with cqlsh and the Python driver, in the versions of the client image. Source after common.sh.

# Prints its folder, below the cache; makes it when it is not there.
client_env() {
  local list=$REPO_ROOT/images/client/requirements.txt place
  place=$CACHE_ROOT/tools/cqlsh-$(hash_of "$list")
  [ -x "$place/bin/cqlsh" ] || locked cqlsh make_client_env "$list" "$place"
  echo "$place"
}

make_client_env() { # REQUIREMENTS FOLDER
  [ ! -x "$2/bin/cqlsh" ] || return 0
  log "installing cqlsh into $2"
  rm -rf "$2"
  python3 -m ensurepip --version > /dev/null 2>&1 || apt_packages python3-venv
  python3 -m venv "$2" >&2
  local wanted=$2/requirements.txt
  # The hashes are those of the wheels for Python 3.11; another Python gets the same versions.
  if python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then cp "$1" "$wanted"
  else grep -oE '^[a-z][a-z0-9-]*==[0-9.]+' "$1" > "$wanted"; fi
  with_log "$CACHE_ROOT/logs/cqlsh.log" "$2/bin/pip" install -q -r "$wanted" || { rm -rf "$2"; return 1; }
}
