#!/usr/bin/env bash
# Builds what is released: both programs, the units and the licences, in one archive with its checksum.
#
#   scripts/release.sh [DIR]
#
# DIR is target/dist unless it is given. The version is that of Cargo.toml; where a tag v…
# stands on this commit, the two must agree.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target="${CARGO_TARGET_DIR:-target}"
out="${1:-$target/dist}"
version="$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)"
tag="$(git describe --tags --exact-match --match 'v*' 2>/dev/null || true)"
if [[ -n $tag && $tag != "v$version" ]]; then
  printf 'FAIL  the tag is %s and the version in Cargo.toml %s\n' "$tag" "$version" >&2
  exit 1
fi
[[ -n $version ]] || { echo 'FAIL  Cargo.toml names no version' >&2; exit 1; }

cargo build --release --locked --bins

name="aspen-$version-$(uname -m)-linux"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/$name" "$out"
cp "$target/release/aspen-node" "$target/release/aspen" nixos/aspen.service nixos/aspen-backup.{service,timer,sh} \
  aspen.example.toml README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT "$work/$name/"
strip --strip-debug "$work/$name/aspen-node" "$work/$name/aspen"
# The same input gives the same archive: no times, no owners, a fixed order.
tar --sort=name --mtime='@0' --owner=0 --group=0 --numeric-owner -C "$work" -cf - "$name" | gzip -n >"$out/$name.tar.gz"
(cd "$out" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
printf 'wrote %s\n' "$out/$name.tar.gz"
