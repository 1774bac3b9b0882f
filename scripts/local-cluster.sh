#!/usr/bin/env bash
# Three nodes of one cluster on this machine, until it is interrupted.
#
#   scripts/local-cluster.sh [DIR]
#
# Needs aspen-node on the PATH. Data goes to DIR, which is kept, or to a temporary directory, which is not.
# HTTP is on 127.0.0.1, ports 4600, 4610 and 4620; the nodes meet on UDP ports 4601, 4611 and 4621.
set -euo pipefail

if (($# > 0)); then
  dir=$1
  mkdir -p "$dir"
else
  dir=$(mktemp -d "${TMPDIR:-/tmp}/aspen-cluster.XXXXXX")
  trap 'rm -rf "$dir"' EXIT
fi

# Each node knows the keys of all, and they found the cluster by themselves.
if [[ ! -e $dir/peers.toml ]]; then
  for node in 1 2 3; do
    rm -f "$dir/key-$node"
    key=$(aspen-node keygen --out "$dir/key-$node")
    printf '[[peers]]\nnode_id = %d\npublic_key = "%s"\naddresses = ["127.0.0.1:46%d1"]\n' \
      "$node" "$key" $((node - 1))
  done >"$dir/peers.new"
  mv "$dir/peers.new" "$dir/peers.toml"
fi

nodes=()
for node in 1 2 3; do
  port=46$((node - 1))
  aspen-node --config "$dir/peers.toml" --node-id "$node" --bootstrap static --data-dir "$dir/node-$node" \
    --secret-key-file "$dir/key-$node" --http-addr "127.0.0.1:${port}0" --iroh-addr "127.0.0.1:${port}1" \
    >"$dir/node-$node.log" 2>&1 &
  nodes+=($!)
done
trap 'kill -TERM "${nodes[@]}" 2>/dev/null || true' INT TERM

printf 'Three nodes start; logs and data are in %s. Try, in another terminal:\n' "$dir"
printf '  export ASPEN_ADDR=http://127.0.0.1:4600,http://127.0.0.1:4610,http://127.0.0.1:4620\n'
printf '  aspen status\n  aspen put greeting hello\n  aspen get greeting\nInterrupt this to stop them.\n'

# The first that ends by itself, as its port is taken, takes the others with it.
code=0
wait -n "${nodes[@]}" || code=$?
kill -TERM "${nodes[@]}" 2>/dev/null || true
wait || true
if ((code != 0 && code < 128)); then
  tail -n 5 "$dir"/node-*.log >&2
  exit "$code"
fi
