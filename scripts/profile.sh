#!/usr/bin/env bash
# Where the processor's microseconds of a put and of a get go: three nodes on loopback, fsync on, under
# load, sampled by perf and sorted by component.
#
#   scripts/profile.sh                 about a minute, after the build
#   scripts/profile.sh --seconds 10    longer
#
# Needs perf, which it installs on Debian, as root, where it is missing, and the right to sample processes.
# docs/performance.md keeps its table.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target="${CARGO_TARGET_DIR:-$PWD/target}"
source scripts/debian.sh
# The workspace of the benchmarks has a client of etcd, built from its protocol's description by protoc.
install_missing perf:linux-perf protoc:protobuf-compiler

cargo build --quiet --locked --release --bins
CARGO_TARGET_DIR="$target/compare" \
  cargo build --quiet --locked --release --manifest-path benches/compare-etcd/Cargo.toml --bin profile
exec "$target/compare/release/profile" --aspen "$target/release" --data-dir "$target" "$@"
