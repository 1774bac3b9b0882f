#!/usr/bin/env bash
# Five nodes over iroh on loopback: form a cluster, write, lose the leader to kill -9, write on, catch up.
#
#   scripts/aspen-cluster-smoke.sh [--nodes N] [--keep] [-- FLAG…]
#
# Flags behind `--` go to every aspen-node (for example `-- --log-filter debug`). Each phase prints one
# line; the last one is PASS, or the failing phase with the ends of the logs. docs/cluster-smoke.md
# explains what it does and how to read it.
set -euo pipefail

cd "$(dirname "$0")/.."

nodes=5
keep=no
node_flags=()
while [ $# -gt 0 ]; do
  case $1 in
    --nodes) nodes=$2; shift 2 ;;
    --keep) keep=yes; shift ;;
    --) shift; node_flags=("$@"); break ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) node_flags=("$@"); break ;;
  esac
done
case $nodes in '' | *[!0-9]*) echo "--nodes takes a number, not '$nodes'" >&2; exit 2 ;; esac
[ "$nodes" -ge 3 ] || { echo "--nodes must be 3 or more: with fewer, losing the leader loses the quorum" >&2; exit 2; }

profile=${SMOKE_PROFILE:-release}
target=${CARGO_TARGET_DIR:-target}
bin=$target/$([ "$profile" = dev ] && echo debug || echo "$profile")
work=$(mktemp -d "${TMPDIR:-/tmp}/aspen-smoke.XXXXXX")
# Below the range that the kernel hands out to clients, and different for runs side by side.
base=$((20000 + $$ % 1000 * 10))

declare -A pid=()
phase="start"
began=$(date +%s%N)
phase_began=$began

addr() { echo "127.0.0.1:$((base + $1))"; }
all_addrs() { local i list=; for i in $(seq "$nodes"); do list+=${list:+,}$(addr "$i"); done; echo "$list"; }
seconds_since() { local ms=$((($(date +%s%N) - $1) / 1000000)); printf '%d.%02d' $((ms / 1000)) $((ms % 1000 / 10)); }

begin() {
  phase=$1
  phase_began=$(date +%s%N)
}
done_phase() { printf 'ok    %-34s %6s s  %s\n' "$phase" "$(seconds_since "$phase_began")" "${1:-}"; }

fail() {
  printf 'FAIL  %s: %s\n' "$phase" "$1"
  local i
  for i in $(seq "$nodes"); do
    [ -f "$work/n$i.log" ] || continue
    printf -- '--- node %s, the last lines of %s\n' "$i" "$work/n$i.log"
    tail -n 15 "$work/n$i.log"
  done
  keep=yes
  exit 1
}

stop_all() {
  local status=$? i
  for i in "${!pid[@]}"; do kill -KILL "${pid[$i]}" 2>/dev/null || true; done
  wait 2>/dev/null || true
  if [ "$keep" = yes ]; then echo "data and logs are kept in $work"; else rm -rf "$work"; fi
  exit "$status"
}
trap stop_all EXIT
trap 'fail "a command failed on line $LINENO: $BASH_COMMAND"' ERR

aspen() { "$bin/aspen" --timeout 15 "$@"; }

# wait_for SECONDS WHAT COMMAND…: until the command succeeds, asked twenty times a second.
wait_for() {
  local limit=$1 what=$2 until
  shift 2
  until=$(($(date +%s%N) + limit * 1000000000))
  until "$@" >/dev/null 2>&1; do
    [ "$(date +%s%N)" -lt "$until" ] || fail "$what did not happen within $limit s"
    sleep 0.05
  done
}

start_node() {
  local i=$1 peers=()
  if [ "$i" -gt 1 ]; then peers=(--peer "$(cat "$work/n1/endpoint")"); fi
  "$bin/aspen-node" --node-id "$i" --data-dir "$work/n$i" --bootstrap manual \
    --http-addr "$(addr "$i")" --iroh-addr "127.0.0.1:$((base + 5000 + i))" --log-format text \
    "${peers[@]}" "${node_flags[@]}" >>"$work/n$i.log" 2>&1 &
  pid[$i]=$!
  disown
}

is_up() { [ -s "$work/n$1/endpoint" ] && aspen --addr "$(addr "$1")" ticket; }
alive() { kill -0 "${pid[$1]}" 2>/dev/null; }
leader() { aspen --json --addr "${1:-$(all_addrs)}" member list | tr -d ' \n' | tr '{' '\n' | sed -n '/"role":"leader"/s/.*"node_id":\([0-9]*\).*/\1/p'; }
has_leader_other_than() { local now; now=$(leader "$2") && [ -n "$now" ] && [ "$now" != "$1" ]; }
# has_caught_up NODE KEY: its own state has the key, without asking the leader.
has_caught_up() { aspen --addr "$(addr "$1")" get --stale "$2"; }

# expect_first_values NODE: it answers with what was written through each node.
expect_first_values() {
  local k got
  for k in $(seq "$nodes"); do
    got=$(aspen --addr "$(addr "$1")" get "smoke/by-node-$k")
    [ "$got" = "value $k" ] || fail "node $1 answered '$got' for smoke/by-node-$k, which is 'value $k'"
  done
}

if [ ! -x "$bin/aspen-node" ] || [ ! -x "$bin/aspen" ] || [ "${SMOKE_BUILD:-yes}" = yes ]; then
  begin "build ($profile)"
  cargo build --quiet --profile "$profile" --bins
  done_phase
fi
measured=$(date +%s%N)

begin "start $nodes nodes"
start_node 1
wait_for 10 "node 1's HTTP API" is_up 1
for i in $(seq 2 "$nodes"); do start_node "$i"; done
for i in $(seq 2 "$nodes"); do wait_for 10 "node $i's HTTP API" is_up "$i"; done
done_phase

begin "initialise node 1"
aspen --addr "$(addr 1)" init >/dev/null
done_phase

begin "add $((nodes - 1)) learners"
for i in $(seq 2 "$nodes"); do
  aspen --addr "$(addr 1)" member add-learner "$(cat "$work/n$i/endpoint")" >/dev/null
done
done_phase

begin "promote them to voters"
aspen --addr "$(addr 1)" member promote $(seq 2 "$nodes") >/dev/null
done_phase

begin "write through every node"
for i in $(seq "$nodes"); do aspen --addr "$(addr "$i")" put "smoke/by-node-$i" "value $i" >/dev/null; done
done_phase "$nodes keys"

begin "read through every node"
for i in $(seq "$nodes"); do expect_first_values "$i"; done
done_phase "$((nodes * nodes)) reads"

begin "kill -9 the leader"
old=$(leader)
alive "$old" || fail "node $old leads but does not run"
kill -KILL "${pid[$old]}"
killed=$(date +%s%N)
survivors=
for i in $(seq "$nodes"); do [ "$i" = "$old" ] || survivors+=${survivors:+,}$(addr "$i"); done
done_phase "node $old"

begin "write on"
aspen --addr "$survivors" put smoke/after-the-kill "still here" >/dev/null
took=$(seconds_since "$killed")
wait_for 10 "the election of another leader" has_leader_other_than "$old" "$survivors"
for k in $(seq 20); do aspen --addr "$survivors" put "smoke/later-$k" "later $k" >/dev/null; done
done_phase "node $(leader "$survivors") leads; the first write was there $took s after the kill"

begin "restart node $old"
start_node "$old"
wait_for 20 "node $old's catching up" has_caught_up "$old" smoke/later-20
done_phase "it has what it missed"

begin "every write is there"
for i in $(seq "$nodes"); do
  expect_first_values "$i"
  got=$(aspen --addr "$(addr "$i")" get smoke/after-the-kill)
  [ "$got" = "still here" ] || fail "node $i answered '$got' for smoke/after-the-kill"
  got=$(aspen --addr "$(addr "$i")" range --prefix smoke/later- --keys-only | grep -c 'smoke/later-')
  [ "$got" = 20 ] || fail "node $i has $got of the 20 keys under smoke/later-"
done
done_phase

begin "stop all with SIGTERM"
for i in $(seq "$nodes"); do kill -TERM "${pid[$i]}"; done
for i in $(seq "$nodes"); do
  stops_by=$(($(date +%s%N) + 10000000000))
  while alive "$i"; do
    [ "$(date +%s%N)" -lt "$stops_by" ] || fail "node $i still runs 10 s after SIGTERM"
    sleep 0.05
  done
done
pid=()
done_phase

echo "PASS  $nodes nodes, $(seconds_since "$measured") s after the build"
