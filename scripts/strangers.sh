#!/usr/bin/env bash
# What strangers cost a cluster: three nodes on loopback under load, in turn left alone and called by
# strangers at a steady rate. It prints throughput, latency and the nodes' processor time of each run, and the
# median of the ratios of runs that stood side by side: the machine's own speed drifts from minute to minute.
#
#   scripts/strangers.sh [--rounds N] [--rate CONNECTIONS_A_SECOND] [--seconds N]
#
# Nodes, load and strangers share the machine's processors. Elsewhere the strangers have machines of their own:
# here they run on what time the others leave (SCHED_IDLE), and the number of their connections is printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=9 rate=200 seconds=5
while [ $# -gt 0 ]; do
  case $1 in
    --rounds) rounds=$2; shift 2 ;;
    --rate) rate=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done

source scripts/debian.sh
install_missing jq:jq chrt:util-linux
profile=${STRANGERS_PROFILE:-release}
bin=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")
cargo build --quiet --locked --profile "$profile" --bins --example strangers

work=$(mktemp -d "${TMPDIR:-/tmp}/aspen-strangers.XXXXXX")
pids=()
stop() {
  kill "${pids[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT

# await WHAT COMMAND…: until the command succeeds, for half a minute.
await() {
  local what=$1 tries=600
  shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { echo "$what did not happen within 30 s" >&2; exit 1; }
    sleep 0.05
  done
}
aspen() { "$bin/aspen" --addr "$addrs" "$@"; }

base=$((21000 + $$ % 1000 * 8))
addrs=
for i in 1 2 3; do
  join=()
  if [ "$i" -gt 1 ]; then
    aspen ticket new >"$work/ticket"
    join=(--join "$(cat "$work/ticket")")
  fi
  "$bin/aspen-node" --data-dir "$work/n$i" --http-addr "127.0.0.1:$((base + i))" \
    --iroh-addr "127.0.0.1:$((base + 4 + i))" --log-format text "${join[@]}" >>"$work/n$i.log" 2>&1 &
  pids+=($!)
  addrs+=${addrs:+,}http://127.0.0.1:$((base + i))
  await "node $i" "$bin/aspen" --addr "http://127.0.0.1:$((base + i))" status
done
all_vote() { [ "$(aspen --json member list | jq '[.[] | select(.role != "learner")] | length')" = 3 ]; }
await "three votes" all_vote
leader=$(aspen --json member list | jq '.[] | select(.role == "leader") | .node_id')

# load NAME: one line for the round.
load() {
  aspen --json bench --clients 32 --duration "$seconds" --warmup 2 |
    jq -r --arg name "$1" '[$name, .ops_per_s, .kinds[0].p50_ms, .kinds[0].p99_ms, .server_cpu_us_per_op, .errors] | @tsv' |
    tee -a "$work/rounds"
}

# call: a run with strangers. They come before the load begins, and end after it.
call() {
  chrt --idle 0 "$bin/examples/strangers" "$(cat "$work/n$leader/endpoint")" "$rate" $((seconds + 4)) >"$work/strangers" &
  local calling=$!
  until grep -q ready "$work/strangers" 2>/dev/null; do sleep 0.1; done
  load strangers
  wait "$calling"
  tail -n 1 "$work/strangers"
}

printf 'run\tops/s\tp50 ms\tp99 ms\tµs/op\terrors\n'
for round in $(seq "$rounds"); do
  if [ $((round % 2)) = 1 ]; then load alone; call; else call; load alone; fi
done

# ratio COLUMN: with strangers to without, the median of the pairs.
ratio() {
  awk -F'\t' -v column="$1" '{ value[$1] = $column } NR % 2 == 0 { print value["strangers"] / value["alone"] }' "$work/rounds" |
    sort -g | awk '{ v[NR] = $1 } END { printf "%.3f (%.3f to %.3f)", v[int((NR + 1) / 2)], v[1], v[NR] }'
}
for column in "2 throughput" "3 p50" "4 p99" "5 processor time an operation"; do
  echo "${column#* }, with strangers to without: $(ratio "${column%% *}")"
done
