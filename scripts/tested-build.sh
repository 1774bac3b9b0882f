# shellcheck shell=bash
# Sourced by the scripts beside it: the build that is tested. All of them make the same one: for another set of features
# the crates below are built once more, which takes minutes and gigabytes.

# Beside the default features. A build without them is that of aspen-cluster-smoke.sh.
TESTED_FEATURES=(--features hiqlite)

# build_tested: builds both programs as `cargo test` does. An example takes what tests take: without one, some of the
# crates below had fewer features.
build_tested() { cargo build --locked "${TESTED_FEATURES[@]}" --bins --example manual; }

# find_binaries: sets ASPEN_BINARIES to the directory of aspen-node and aspen, and builds them unless it is set.
find_binaries() {
  [[ -z ${ASPEN_BINARIES:-} ]] || return 0
  build_tested
  ASPEN_BINARIES="${CARGO_TARGET_DIR:-target}/debug"
}
