#!/usr/bin/env bash
# Aspen and etcd under the same load, on this machine, in turn: three nodes of each on loopback, fsync on.
#
#   scripts/compare-etcd.sh --quick             less than five minutes
#   scripts/compare-etcd.sh                     the whole grid
#   scripts/compare-etcd.sh --only 'put, 64'    cells whose names contain this
#
# It prints how they compare, and how far that is from what is aimed at. etcd is Debian's (etcd-server),
# installed where it is missing, as root; ETCD names another one. Data is kept in the build directory while it
# runs. All servers stop with it, however it ends; their data stays only where it was killed itself (kill -9).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target="${CARGO_TARGET_DIR:-$PWD/target}"
source scripts/debian.sh
# The client of etcd is built from its protocol's description, by protoc.
install_missing "${ETCD:-etcd}:etcd-server" protoc:protobuf-compiler

cargo build --quiet --locked --release --bins
CARGO_TARGET_DIR="$target/compare" \
  cargo build --quiet --locked --release --manifest-path benches/compare-etcd/Cargo.toml
exec "$target/compare/release/compare-etcd" --aspen "$target/release" --etcd "${ETCD:-etcd}" \
  --commit "$(git describe --always --dirty)" --data-dir "$target" "$@"
