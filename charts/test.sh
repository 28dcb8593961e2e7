#!/bin/bash
# Tests the chart: lint, the copied definitions, what it renders for many values, and all of it at an API server.
#   charts/test.sh [TEST...]      names of tests in charts/tests, default all
# HELM names the helm to use; otherwise the one on the path, or one that is built into the cache.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../cluster/lib/common.sh"
cd "$REPO_ROOT"

if [ -z "${HELM:-}" ]; then
  HELM=$(command -v helm || true)
  [ -n "$HELM" ] || HELM=$(cluster/binaries helm)/helm
fi
export HELM

have python3 || apt_install python3=python3
python=python3
if ! python3 -c 'import yaml' 2> /dev/null; then
  python=$CACHE_ROOT/chart-tests/bin/python3
  if ! "$python" -c 'import yaml' 2> /dev/null; then
    log "installing PyYAML into ${python%/bin/*}"
    # Debian's python3 has the module venv, and not what it needs.
    python3 -c 'import ensurepip' 2> /dev/null || apt_packages python3-venv
    rm -rf "${python%/bin/*}"
    python3 -m venv "${python%/bin/*}"
    "$python" -m pip install --quiet --disable-pip-version-check 'PyYAML==6.0.3'
  fi
fi

charts/sync-crds --check
"$HELM" lint --strict --quiet charts/replicateddb-operator
PYTHONDONTWRITEBYTECODE=1 "$python" charts/tests/run.py "$@"
[ $# -gt 0 ] || charts/tests/server
