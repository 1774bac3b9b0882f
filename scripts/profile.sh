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
missing=()
command -v perf >/dev/null || missing+=(linux-perf)
# The workspace of the benchmarks has a client of etcd, built from its protocol's description.
command -v protoc >/dev/null || missing+=(protobuf-compiler)
if ((${#missing[@]} > 0)); then
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}. Install them, or run this as root on Debian" >&2
    exit 2
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
fi

cargo build --quiet --locked --release --bins
CARGO_TARGET_DIR="$target/compare" \
  cargo build --quiet --locked --release --manifest-path benches/compare-etcd/Cargo.toml --bin profile
exec "$target/compare/release/profile" --aspen "$target/release" --data-dir "$target" "$@"
