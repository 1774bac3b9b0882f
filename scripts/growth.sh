#!/usr/bin/env bash
# How Aspen behaves as it grows: clusters of three and of five nodes on loopback, fsync on, with ten
# thousand, a million and five million keys of 256 B.
#
#   scripts/growth.sh                              about ten minutes after the build, and 25 GB of disk
#   scripts/growth.sh --keys 100000 --nodes 3      one row
#
# It prints one table, which docs/performance.md keeps. Data is kept in the build directory while it runs.
# All servers stop with it, however it ends; their data stays only where it was killed itself (kill -9).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target="${CARGO_TARGET_DIR:-$PWD/target}"
source scripts/debian.sh
# The workspace of the benchmarks has a client of etcd, built from its protocol's description by protoc.
install_missing protoc:protobuf-compiler

cargo build --quiet --locked --release --bins --example fill
CARGO_TARGET_DIR="$target/compare" \
  cargo build --quiet --locked --release --manifest-path benches/compare-etcd/Cargo.toml --bin growth
exec "$target/compare/release/growth" --aspen "$target/release" --data-dir "$target" "$@"
