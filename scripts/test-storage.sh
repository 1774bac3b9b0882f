#!/usr/bin/env bash
# The tests of the storage, with more power cuts than `cargo test` makes.
#
#   scripts/test-storage.sh           100,000 power cuts, over all of their tests
#   scripts/test-storage.sh CUTS      another number
#
# A run that fails names its seed and the command that runs it again. CARGO_TARGET_DIR is honoured.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export STORAGE_POWER_CUTS="${1:-100000}"
exec cargo test --locked --lib storage::
