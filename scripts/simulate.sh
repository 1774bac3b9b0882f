#!/usr/bin/env bash
# Runs whole clusters of Aspen under seeds, with virtual time, network and disks.
#
#   scripts/simulate.sh                        200 seeds of the mixed scenario, some of each other one
#   scripts/simulate.sh --seeds N --jobs J     more, on so many threads
#   scripts/simulate.sh --seeds N --hours H    as many as fit into the time
#   scripts/simulate.sh --scenario S --seed X  one run again, with its trace
#   scripts/simulate.sh --planted              looks for bugs that are put in on purpose
#
# A failing seed is kept in docs/simulations/, with the command that runs it again. Exits with 0 if all
# is well. It is built with a cfg of its own, into a target directory of its own: CARGO_TARGET_DIR/sim,
# or target/sim.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/sim"
# Without the cfg the simulator is plain Tokio, and the run would be one on real clocks.
export RUSTFLAGS="${RUSTFLAGS:-} --cfg madsim"

cargo build --quiet --locked --manifest-path tests/sim/Cargo.toml
exec "$CARGO_TARGET_DIR/debug/aspen-sim" "$@"
