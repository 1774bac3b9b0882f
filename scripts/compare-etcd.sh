#!/usr/bin/env bash
# Aspen and etcd under the same load, on this machine, in turn: three nodes of each on loopback, fsync on.
#
#   scripts/compare-etcd.sh --quick             less than five minutes
#   scripts/compare-etcd.sh                     the whole grid
#   scripts/compare-etcd.sh --only 'put, 64'    cells whose names contain this
#
# It prints one table. etcd is Debian's (etcd-server), installed where it is missing, as root; ETCD names
# another one. Data is kept in the build directory while it runs. All servers stop with it, however it ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target="${CARGO_TARGET_DIR:-$PWD/target}"
missing=()
command -v "${ETCD:-etcd}" >/dev/null || missing+=(etcd-server)
# The client of etcd is built from its protocol's description.
command -v protoc >/dev/null || missing+=(protobuf-compiler)
if ((${#missing[@]} > 0)); then
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}. Install them, or run this as root on Debian" >&2
    exit 2
  fi
  apt-get update -qq
  # Debian starts a server of its own with the package, unless it is told not to.
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
  [[ -z $(trap -p EXIT) ]] || { rm -f "$policy"; trap - EXIT; }
fi

cargo build --quiet --locked --release --bins
CARGO_TARGET_DIR="$target/compare" \
  cargo build --quiet --locked --release --manifest-path benches/compare-etcd/Cargo.toml
exec "$target/compare/release/compare-etcd" --aspen "$target/release" --etcd "${ETCD:-etcd}" \
  --data-dir "$target" "$@"
