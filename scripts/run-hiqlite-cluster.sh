#!/usr/bin/env bash
# A Hiqlite cluster of three nodes on loopback, for clients of it (`hiqlite.mode = "remote"`).
#
#   scripts/run-hiqlite-cluster.sh start     builds, provisions and starts what does not run yet
#   scripts/run-hiqlite-cluster.sh status    says how each node is; exits with 0 if all three serve
#   scripts/run-hiqlite-cluster.sh stop      stops them; what they hold stays
#
# Its nodes are aspen-node processes with an embedded Hiqlite each: the server that Hiqlite brings along
# does not build from its published crate. HIQLITE_DIR (target/hiqlite-cluster) keeps configurations, secrets
# of mode 0600, data and logs; HIQLITE_PORT (4700) is where their ports begin. The file `client.env` there has
# what a client needs in its environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=${SMOKE_PROFILE:-release}
target=${CARGO_TARGET_DIR:-$PWD/target}
bin=$target/$([ "$profile" = dev ] && echo debug || echo "$profile")
dir=${HIQLITE_DIR:-$target/hiqlite-cluster}
base=${HIQLITE_PORT:-4700}
nodes="1 2 3"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

http_addr() { echo "127.0.0.1:$((base + $1))"; }
raft_addr() { echo "127.0.0.1:$((base + 10 + $1))"; }
api_addr() { echo "127.0.0.1:$((base + 20 + $1))"; }
aspen() { "$bin/aspen" --timeout 15 --addr "$(http_addr "$1")" "${@:2}"; }
die() { echo "run-hiqlite-cluster: $1" >&2; exit 1; }

# runs NODE: its process is there, and is the one that was started. A process id may be another's by now.
runs() {
  local pid
  pid=$(cat "$dir/n$1.pid" 2>/dev/null) && [ -n "$pid" ] &&
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$dir/n$1.toml"
}

# wait_for SECONDS WHAT COMMAND…: until the command succeeds, asked ten times a second.
wait_for() {
  local limit=$1 what=$2 until
  shift 2
  until=$((SECONDS + limit))
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || die "$what did not happen within $limit s; see $dir/n*.log"
    sleep 0.1
  done
}

# secret FILE: draws it once. Nobody else can read it at any time.
secret() { [ -s "$1" ] || (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$1"); }

provision() {
  secret "$dir/secret-raft"
  secret "$dir/secret-api"
  local i list=
  for i in $nodes; do
    list+=${list:+,}$(api_addr "$i")
    cat >"$dir/n$i.toml" <<EOF
node_id = $i
data_dir = "$dir/n$i"
http_addr = "$(http_addr "$i")"
bootstrap = "manual"
control_backend = "hiqlite"
log_format = "text"

[hiqlite]
mode = "embedded"
raft_addr = "$(raft_addr "$i")"
api_addr = "$(api_addr "$i")"
secret_raft_file = "$dir/secret-raft"
secret_api_file = "$dir/secret-api"
EOF
  done
  cat >"$dir/client.env" <<EOF
ASPEN_CONTROL_BACKEND=hiqlite
ASPEN_HIQLITE__MODE=remote
ASPEN_HIQLITE__NODES=$list
ASPEN_HIQLITE__SECRET_API_FILE=$dir/secret-api
EOF
}

is_up() { curl -s -o /dev/null "http://$(http_addr "$1")/livez"; }
serves() { curl -sf -o /dev/null "http://$(http_addr "$1")/readyz"; }
is_new() { curl -s "http://$(http_addr "$1")/readyz" | grep -q waiting_for_init; }

start() {
  if [ ! -x "$bin/aspen-node" ] || [ "${SMOKE_BUILD:-yes}" = yes ]; then
    cargo build --quiet --locked --profile "$profile" --features hiqlite --bins
  fi
  provision
  local i
  for i in $nodes; do
    runs "$i" && continue
    nohup "$bin/aspen-node" --config "$dir/n$i.toml" >>"$dir/n$i.log" 2>&1 </dev/null &
    echo $! >"$dir/n$i.pid"
  done
  for i in $nodes; do wait_for 20 "node $i's HTTP API" is_up "$i"; done
  if is_new 1; then aspen 1 init >/dev/null; fi
  wait_for 20 "node 1's start" serves 1
  local added=
  for i in 2 3; do
    is_new "$i" || continue
    aspen 1 member add-learner "$(cat "$dir/n$i/endpoint")" >/dev/null
    added+=" $i"
  done
  # shellcheck disable=SC2086  # Each id is a word of its own.
  [ -z "$added" ] || aspen 1 member promote $added >/dev/null
  for i in $nodes; do wait_for 30 "node $i's start" serves "$i"; done
  status
}

status() {
  local i failed=0
  for i in $nodes; do
    if ! runs "$i"; then
      echo "node $i  stopped"
      failed=1
    elif serves "$i"; then
      echo "node $i  serving   api $(api_addr "$i")  http $(http_addr "$i")  pid $(cat "$dir/n$i.pid")"
    else
      echo "node $i  not ready  $(curl -s "http://$(http_addr "$i")/readyz" || true)"
      failed=1
    fi
  done
  return $failed
}

gone() { ! runs "$1"; }

stop() {
  local i
  for i in $nodes; do
    # In order takes Hiqlite ten seconds, in which its clients turn to the others.
    if runs "$i"; then kill -TERM "$(cat "$dir/n$i.pid")"; fi
  done
  for i in $nodes; do
    local until=$((SECONDS + 25))
    while runs "$i"; do
      if [ "$SECONDS" -ge "$until" ]; then
        echo "node $i did not stop within 25 s and was killed" >&2
        kill -KILL "$(cat "$dir/n$i.pid")" 2>/dev/null || true
        wait_for 5 "node $i's end" gone "$i"
      fi
      sleep 0.1
    done
    rm -f "$dir/n$i.pid"
  done
}

case ${1:-} in
  start | stop | status) "$1" ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
