#!/usr/bin/env bash
# Both control backends under the same load, on this machine, in turn: three nodes of each on loopback, both with
# their durable defaults, under which an acknowledged write is on the disks of a majority.
#
#   scripts/compare-backends.sh               about eight minutes after the build
#   scripts/compare-backends.sh --rounds 1    a third of that
#
# It prints one table of medians. Data is kept in the build directory while it runs. All
# nodes stop with it, however it ends. COMPARE_BUILD=no takes target/release as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=3
while [ $# -gt 0 ]; do
  case $1 in
    --rounds) rounds=$2; shift 2 ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done
case $rounds in [1-9]) ;; *) echo "--rounds is 1 to 9, not '$rounds'" >&2; exit 2 ;; esac

CLIENTS="1 16 64"
MEASURED_S=5
# A cell's measured time, its warm-up, and the keys that are set before.
CELL_LIMIT_S=120

target=${CARGO_TARGET_DIR:-$PWD/target}
bin=$target/release
source scripts/debian.sh
install_missing curl:curl python3:python3
if [ ! -x "$bin/aspen-node" ] || [ "${COMPARE_BUILD:-yes}" = yes ]; then
  cargo build --quiet --locked --release --features hiqlite --bins
fi
work=$(mktemp -d "$target/compare-backends.XXXXXX")
# Below the range that the kernel hands out to clients, and different for runs side by side.
base=$((12000 + $$ % 100 * 20))

pids=()
# The shell would tell of each that was killed.
stop_nodes() {
  [ ${#pids[@]} = 0 ] || kill -KILL "${pids[@]}" || true
  wait || true
  pids=()
} 2>/dev/null
finish() {
  local status=$?
  stop_nodes
  if [ "$status" != 0 ]; then tail -n 5 "$work"/*/n*.log >&2 2>/dev/null || true; fi
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT

http() { echo "127.0.0.1:$((base + $1))"; }
addrs="$(http 1),$(http 2),$(http 3)"
aspen() { timeout "$CELL_LIMIT_S" "$bin/aspen" --addr "$1" "${@:2}"; }

# wait_for SECONDS WHAT COMMAND…: until the command succeeds, asked ten times a second.
wait_for() {
  local limit=$1 what=$2 until
  shift 2
  until=$((SECONDS + limit))
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || { echo "$what did not happen within $limit s" >&2; exit 1; }
    sleep 0.1
  done
}
serves() { curl -sf "http://$(http "$1")/readyz"; }

# start BACKEND DIR: a cluster of three voters.
start() {
  local i environment
  mkdir -p "$2"
  for i in raft api; do
    (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$2/secret-$i")
  done
  for i in 1 2 3; do
    environment=("ASPEN_CONTROL_BACKEND=$1")
    if [ "$1" = hiqlite ]; then
      environment+=(
        "ASPEN_HIQLITE__RAFT_ADDR=127.0.0.1:$((base + 3 + i))" "ASPEN_HIQLITE__API_ADDR=127.0.0.1:$((base + 6 + i))"
        "ASPEN_HIQLITE__SECRET_RAFT_FILE=$2/secret-raft" "ASPEN_HIQLITE__SECRET_API_FILE=$2/secret-api"
      )
    elif [ "$i" != 1 ]; then
      environment+=("ASPEN_PEERS=$(cat "$2/n1/endpoint")")
    fi
    env "${environment[@]}" "$bin/aspen-node" --node-id "$i" --data-dir "$2/n$i" --bootstrap manual \
      --http-addr "$(http "$i")" --iroh-addr "127.0.0.1:$((base + 9 + i))" >"$2/n$i.log" 2>&1 &
    pids+=($!)
    wait_for 20 "the start of node $i" aspen "$(http "$i")" ticket
  done
  aspen "$(http 1)" init >/dev/null
  for i in 2 3; do aspen "$(http 1)" member add-learner "$(cat "$2/n$i/endpoint")" >/dev/null; done
  aspen "$(http 1)" member promote 2 3 >/dev/null
  for i in 1 2 3; do wait_for 30 "the readiness of node $i" serves "$i"; done
}

echo "backend kind clients ops p50 p99 cpu errors" >"$work/cells"
for round in $(seq "$rounds"); do
  for backend in raft hiqlite; do
    start "$backend" "$work/$backend"
    for kind in put get; do
      # All keys are set before the gets, by many clients, as one would take long.
      flags=()
      if [ "$kind" = get ]; then
        aspen "$addrs" bench --mix get=100 --clients 64 --duration 1 --warmup 1 --preload >/dev/null
        flags=(--no-preload)
      fi
      for clients in $CLIENTS; do
        aspen "$addrs" --json bench --mix "$kind=100" --clients "$clients" --duration "$MEASURED_S" --warmup 1 \
          --seed "$round" "${flags[@]}" >"$work/report" || [ -s "$work/report" ]
        python3 - "$work/report" "$backend" "$kind" "$clients" >>"$work/cells" <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
kind = report["kinds"][0]
print(*sys.argv[2:], kind["ops_per_s"], kind["p50_ms"], kind["p99_ms"], report.get("server_cpu_us_per_op"), report["errors"])
PYTHON
      done
    done
    stop_nodes
    rm -rf "${work:?}/$backend"
  done
done

python3 - "$work/cells" <<'PYTHON'
import sys
from statistics import median

cells = {}
for line in open(sys.argv[1]).readlines()[1:]:
    backend, kind, clients, *numbers = line.split()
    numbers = [float(number) if number != "None" else float("nan") for number in numbers]
    cells.setdefault((kind, int(clients)), {}).setdefault(backend, []).append(numbers)

print("| load, clients | `raft` op/s | p50 / p99 ms | CPU µs an op | `hiqlite` op/s | p50 / p99 ms | CPU µs an op |")
print("|---|---|---|---|---|---|---|")
for (kind, clients), by_backend in cells.items():
    row = [f"{kind}, {clients}"]
    for backend in ("raft", "hiqlite"):
        ops, p50, p99, cpu, errors = (median(column) for column in zip(*by_backend[backend]))
        failed = sum(run[4] for run in by_backend[backend])
        row += [f"{ops:,.0f}" + (f" ({failed:.0f} failed)" if failed else ""), f"{p50:.1f} / {p99:.1f}", f"{cpu:.0f}"]
    print("| " + " | ".join(row) + " |")
PYTHON
