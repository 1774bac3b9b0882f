#!/usr/bin/env bash
# The smoke test on the control backend `hiqlite`, both ways: three nodes with an embedded Hiqlite each, and
# three clients of a Hiqlite cluster that runs beside them and loses its leader.
#
#   scripts/aspen-hiqlite-smoke.sh
#
# The phases are those of aspen-cluster-smoke.sh. The last line is PASS, or what failed. The cluster is taken
# down and its data removed, however it ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

HIQLITE_DIR=$(mktemp -d "${TMPDIR:-/tmp}/aspen-hiqlite.XXXXXX")
# Below the range that the kernel hands out to clients, and beside that of aspen-cluster-smoke.sh.
HIQLITE_PORT=$((16000 + $$ % 100 * 30))
export HIQLITE_DIR HIQLITE_PORT

take_down() {
  local status=$?
  scripts/run-hiqlite-cluster.sh stop || true
  if [ "$status" != 0 ]; then
    tail -n 15 "$HIQLITE_DIR"/n1.log "$HIQLITE_DIR"/n2.log "$HIQLITE_DIR"/n3.log 2>/dev/null || true
    echo "FAIL"
  fi
  rm -rf "$HIQLITE_DIR"
  exit "$status"
}
trap take_down EXIT

echo "--- embedded"
scripts/aspen-cluster-smoke.sh --control-backend hiqlite

echo "--- clients of a cluster"
export SMOKE_BUILD=no
scripts/run-hiqlite-cluster.sh start
scripts/aspen-cluster-smoke.sh --control-backend hiqlite --hiqlite-cluster "$HIQLITE_DIR"
scripts/run-hiqlite-cluster.sh stop
echo "PASS  both ways"
