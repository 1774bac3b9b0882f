#!/usr/bin/env bash
# Five nodes over iroh on loopback: form a cluster, write, lose the leader to kill -9, write on, catch up.
#
#   scripts/aspen-cluster-smoke.sh [--nodes N] [--keep] [-- FLAG…]
#   scripts/aspen-cluster-smoke.sh --control-backend hiqlite [--hiqlite-cluster DIR]
#
# With a DIR of run-hiqlite-cluster.sh the nodes are clients of that cluster, which loses its leader.
# Flags behind `--` go to every aspen-node (for example `-- --log-filter debug`). Each phase prints one
# line; the last one is PASS, or the failing phase with the ends of the logs. docs/cluster-smoke.md
# explains what it does and how to read it.
set -euo pipefail

cd "$(dirname "$0")/.."

nodes=
keep=no
backend=raft
# Where the nodes are clients of a Hiqlite cluster: its directory.
cluster=
node_flags=()
while [ $# -gt 0 ]; do
  case $1 in
    --nodes) nodes=$2; shift 2 ;;
    --keep) keep=yes; shift ;;
    --control-backend) backend=$2; shift 2 ;;
    --hiqlite-cluster) cluster=$2; shift 2 ;;
    --) shift; node_flags=("$@"); break ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) node_flags=("$@"); break ;;
  esac
done
case $backend in raft | hiqlite) ;; *) echo "--control-backend is raft or hiqlite, not '$backend'" >&2; exit 2 ;; esac
: "${nodes:=$([ "$backend" = raft ] && echo 5 || echo 3)}"
case $nodes in '' | *[!0-9]*) echo "--nodes takes a number, not '$nodes'" >&2; exit 2 ;; esac
[ "$nodes" -ge 3 ] || { echo "--nodes must be 3 or more: with fewer, losing the leader loses the quorum" >&2; exit 2; }
features=()
stop_limit_s=10
if [ "$backend" = hiqlite ]; then
  [ "$nodes" = 3 ] || { echo "--nodes is 3 on the backend hiqlite" >&2; exit 2; }
  # It takes ten seconds to stop in order, on purpose.
  features=(--features hiqlite)
  stop_limit_s=25
fi

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

# hiqlite_environment NODE: what a node on that backend is told, as assignments.
hiqlite_environment() {
  echo "ASPEN_CONTROL_BACKEND=hiqlite"
  if [ -n "$cluster" ]; then
    cat "$cluster/client.env"
    return
  fi
  echo "ASPEN_HIQLITE__RAFT_ADDR=127.0.0.1:$((base + 3 + $1))"
  echo "ASPEN_HIQLITE__API_ADDR=127.0.0.1:$((base + 6 + $1))"
  echo "ASPEN_HIQLITE__SECRET_RAFT_FILE=$work/secret-raft"
  echo "ASPEN_HIQLITE__SECRET_API_FILE=$work/secret-api"
}

start_node() {
  local i=$1 peers=() environment=()
  if [ "$backend" = hiqlite ]; then
    mapfile -t environment < <(hiqlite_environment "$i")
  elif [ "$i" -gt 1 ]; then peers=(--peer "$(cat "$work/n1/endpoint")"); fi
  env "${environment[@]}" "$bin/aspen-node" --node-id "$i" --data-dir "$work/n$i" --bootstrap manual \
    --http-addr "$(addr "$i")" --iroh-addr "127.0.0.1:$((base + 5000 + i))" --log-format text \
    "${peers[@]}" "${node_flags[@]}" >>"$work/n$i.log" 2>&1 &
  pid[$i]=$!
  disown
}

serves() { curl -sf "http://$(addr "$1")/readyz"; }
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
  cargo build --quiet --profile "$profile" "${features[@]}" --bins
  done_phase
fi
measured=$(date +%s%N)
if [ "$backend" = hiqlite ]; then
  for name in raft api; do
    (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$work/secret-$name")
  done
fi

begin "start $nodes nodes"
start_node 1
wait_for 10 "node 1's HTTP API" is_up 1
for i in $(seq 2 "$nodes"); do start_node "$i"; done
for i in $(seq 2 "$nodes"); do wait_for 10 "node $i's HTTP API" is_up "$i"; done
done_phase

if [ -n "$cluster" ]; then
  begin "reach the cluster"
  for i in $(seq "$nodes"); do wait_for 20 "node $i's connection" serves "$i"; done
  done_phase
else
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
  if [ "$backend" = hiqlite ]; then
    for i in $(seq "$nodes"); do wait_for 20 "node $i's start" serves "$i"; done
  fi
fi

begin "write through every node"
for i in $(seq "$nodes"); do aspen --addr "$(addr "$i")" put "smoke/by-node-$i" "value $i" >/dev/null; done
done_phase "$nodes keys"

begin "read through every node"
for i in $(seq "$nodes"); do expect_first_values "$i"; done
done_phase "$((nodes * nodes)) reads"

begin "kill -9 the leader"
old=$(leader)
if [ -n "$cluster" ]; then
  kill -KILL "$(cat "$cluster/n$old.pid")"
else
  alive "$old" || fail "node $old leads but does not run"
  kill -KILL "${pid[$old]}"
fi
killed=$(date +%s%N)
survivors=
for i in $(seq "$nodes"); do [ -z "$cluster" ] && [ "$i" = "$old" ] || survivors+=${survivors:+,}$(addr "$i"); done
done_phase "node $old"

begin "write on"
aspen --addr "$survivors" put smoke/after-the-kill "still here" >/dev/null
took=$(seconds_since "$killed")
wait_for 10 "the election of another leader" has_leader_other_than "$old" "$survivors"
for k in $(seq 20); do aspen --addr "$survivors" put "smoke/later-$k" "later $k" >/dev/null; done
done_phase "node $(leader "$survivors") leads; the first write was there $took s after the kill"

begin "restart node $old"
if [ -n "$cluster" ]; then
  scripts/run-hiqlite-cluster.sh start >/dev/null
else
  start_node "$old"
fi
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
  stops_by=$(($(date +%s%N) + stop_limit_s * 1000000000))
  while alive "$i"; do
    [ "$(date +%s%N)" -lt "$stops_by" ] || fail "node $i still runs $stop_limit_s s after SIGTERM"
    sleep 0.05
  done
done
pid=()
done_phase

echo "PASS  $nodes nodes, $(seconds_since "$measured") s after the build"
