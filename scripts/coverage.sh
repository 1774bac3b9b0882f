#!/usr/bin/env bash
# Which lines the tests run, by module, and whether there are fewer of them than there were.
#
#   scripts/coverage.sh                   measures, prints, and fails below the baseline
#   scripts/coverage.sh --set-baseline    measures, prints, and writes the baseline
#
# The baseline is docs/coverage-baseline.txt: a percentage of lines for each module, and for all. The first run
# makes it; without one this fails. Needs the component llvm-tools of the toolchain, or llvm-cov and llvm-profdata of
# the LLVM that rustc has, or of a newer one, on the PATH or as LLVM_COV and LLVM_PROFDATA; and cargo-llvm-cov, which
# is built into the target directory once. Builds instrumented binaries in a target directory of their own (5 GB).
# As root, for the tests on hosts of their own are left out without it, and what they run is missing then.
# CARGO_TARGET_DIR is honoured; ./target is the default. If GITHUB_STEP_SUMMARY is set, the table goes there, too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/tested-build.sh

LLVM_COV_VERSION=0.9.1
BASELINE=docs/coverage-baseline.txt
# Lines that a race decides are run in one run and not in the next.
TOLERANCE_PERCENT=0.5

stop() {
  printf 'FAIL  %s\n' "$1" >&2
  exit 1
}

set_baseline=
case "${1:-}" in
  '') ;;
  --set-baseline) set_baseline=yes ;;
  *) stop "unknown argument '$1': see the head of this script" ;;
esac

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
command -v python3 >/dev/null || stop "python3 is missing: install it"
sysroot="$(rustc --print sysroot)"
# An older LLVM than rustc's does not read its profiles, and says so in words that help nobody.
llvm="$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')"
if [[ -n ${LLVM_COV:-} ]] || ! compgen -G "$sysroot/lib/rustlib/*/bin/llvm-cov" >/dev/null; then
  for tool in cov profdata; do
    variable="LLVM_${tool^^}"
    program="${!variable:-$(command -v "llvm-$tool-$llvm" || command -v "llvm-$tool" || true)}"
    [[ -n $program ]] ||
      stop "llvm-$tool is missing. Run: rustup component add llvm-tools; or set $variable to one of LLVM $llvm or newer"
    found="$("$program" --version | sed -n 's/.*LLVM version \([0-9]*\).*/\1/p' | head -n 1)"
    ((${found:-0} >= llvm)) ||
      stop "$program is of LLVM ${found:-?}, and cannot read what rustc's LLVM $llvm writes. Run: rustup component add \
llvm-tools; or set $variable to one of LLVM $llvm or newer"
    export "$variable=$program"
  done
fi
if [[ -z $set_baseline && ! -f $BASELINE ]]; then
  stop "$BASELINE is missing. Run: scripts/coverage.sh --set-baseline, and commit it"
fi

# On the PATH, or in the build cache from an earlier run, or built there once.
tools="$CARGO_TARGET_DIR/tools"
export PATH="$tools/bin:$PATH"
if ! command -v cargo-llvm-cov >/dev/null; then
  CARGO_TARGET_DIR="$tools/build" cargo install "cargo-llvm-cov@$LLVM_COV_VERSION" --locked --root "$tools" ||
    stop "cargo-llvm-cov cannot be installed (try: cargo install cargo-llvm-cov --locked)"
  rm -rf "$tools/build"
fi

report="$(mktemp)"
trap 'rm -f "$report"' EXIT
# The processes that the tests start are instrumented as well, and count as long as they end by themselves. All of it
# is slower than usual, and some tests have bounds: whether they pass is for scripts/test.sh to say.
cargo llvm-cov test --ignore-run-fail --locked "${TESTED_FEATURES[@]}" --json --summary-only --output-path "$report"

python3 - "$report" "$BASELINE" "$TOLERANCE_PERCENT" "${set_baseline:-no}" <<'PYTHON'
import json
import os
import re
import sys
from collections import defaultdict
from pathlib import Path

report, baseline_path, tolerance, set_baseline = sys.argv[1:]
baseline_path, tolerance = Path(baseline_path), float(tolerance)

# Files that are tests, or there for tests. Tests at the end of other files count, as lines that are run.
TESTS = re.compile(r"(^|/)(tests|fakes|fuzzing|log_suite|power_cuts)(/|\.rs$)")

lines = defaultdict(lambda: [0, 0])
for file in json.load(open(report))["data"][0]["files"]:
    path = Path(file["filename"])
    source = Path.cwd() / "src"
    if not path.is_relative_to(source):
        continue
    if TESTS.search(str(path.relative_to(source))):
        continue
    # src/storage/log_mem.rs and src/storage.rs belong to the module storage.
    module = path.relative_to(source).parts[0].removesuffix(".rs")
    for name in (module, "all"):
        lines[name][0] += file["summary"]["lines"]["covered"]
        lines[name][1] += file["summary"]["lines"]["count"]
if not lines["all"][1]:
    sys.exit("FAIL  the report names no line of src/")
measured = {name: 100 * covered / count for name, (covered, count) in lines.items() if count}

if set_baseline == "yes":
    text = "".join(f"{name} {percent:.1f}\n" for name, percent in sorted(measured.items()))
    baseline_path.write_text("# Lines run by the tests, in percent, by module. scripts/coverage.sh --set-baseline writes it.\n" + text)

baseline = {}
for line in baseline_path.read_text().splitlines():
    if line and not line.startswith("#"):
        name, percent = line.split()
        baseline[name] = float(percent)

table = ["| module | lines | run | baseline |", "|---|---|---|---|"]
for name, percent in sorted(measured.items(), key=lambda entry: (entry[0] == "all", entry[0])):
    was = f"{baseline[name]:.1f} %" if name in baseline else "none"
    table.append(f"| {name} | {lines[name][1]} | {percent:.1f} % | {was} |")
print("\n".join(table))
if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
    with open(summary, "a") as file:
        file.write("## Coverage\n\n" + "\n".join(table) + "\n")

fallen = [name for name, was in baseline.items() if name in measured and measured[name] < was - tolerance]
if fallen:
    for name in fallen:
        print(f"FAIL  {name}: {measured[name]:.1f} %, and the baseline is {baseline[name]:.1f} %")
    sys.exit("Test what is new; or, if less is right, set the baseline anew: scripts/coverage.sh --set-baseline")
print(f"wrote {baseline_path}" if set_baseline == "yes" else "PASS  nothing is below the baseline")
PYTHON
