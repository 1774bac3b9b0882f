#!/usr/bin/env bash
# Measures the storage, and keeps what was measured.
#
#   scripts/bench.sh [FILE]    writes to FILE, bench.txt unless told otherwise, and to the terminal
#
# The figures are those of this machine and its disk: compare them with others of the same, or with
# docs/performance.md. If GITHUB_STEP_SUMMARY is set, they go there, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

file="${1:-bench.txt}"
cargo bench --locked --bench storage | tee "$file"
if [[ -n ${GITHUB_STEP_SUMMARY:-} ]]; then
  {
    printf '## Storage\n\n'
    # A block of code, by its indentation.
    sed 's/^/    /' "$file"
  } >>"$GITHUB_STEP_SUMMARY"
fi
