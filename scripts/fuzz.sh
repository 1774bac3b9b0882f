#!/usr/bin/env bash
# Feeds every decoder of bytes from outside with what a fuzzer makes up.
#
#   scripts/fuzz.sh [SECONDS] [TARGET...]    each target, or these, for so long (60 s unless told otherwise)
#   scripts/fuzz.sh --minimise [TARGET...]   moves what was found into fuzz/corpus, as few files as do, and no more
#                                            than a hundred
#   scripts/fuzz.sh --list                   the targets
#
# Needs a nightly Rust, a C++ compiler, and cargo-fuzz, which is built into the target directory once. What a
# target has found is kept there, too (fuzz-corpus), and is where the next run goes on. An input that fails is kept
# in fuzz/artifacts: put it into fuzz/corpus/TARGET under a name that says what it is, and the tests replay it.
# CARGO_TARGET_DIR is honoured; ./target is the default. If GITHUB_STEP_SUMMARY is set, the table goes there, too.
# Exit code: 0 nothing was found, 1 something was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CARGO_FUZZ_VERSION=0.13.2
DEFAULT_SECONDS=60
# Above what one message of each kind is begun with, and small enough for many a second.
INPUT_MAX_BYTES=16384
# A chunk of a snapshot may claim 2 MiB before its bytes are there; nothing may claim more than that at once.
ALLOCATION_MAX_MIB=4
MEMORY_MAX_MIB=2048
INPUT_MAX_SECONDS=10
# What else was found is left out evenly by size, so that the corpus stays small.
CORPUS_MAX_COUNT=100

stop() {
  printf 'FAIL  %s\n' "$1" >&2
  exit 1
}

targets() {
  sed -n 's/^path = "fuzz_targets\/\(.*\)\.rs"$/\1/p' fuzz/Cargo.toml
}

mode=fuzz
seconds=$DEFAULT_SECONDS
case "${1:-}" in
  --list)
    targets
    exit 0
    ;;
  --minimise)
    mode=minimise
    shift
    ;;
  [0-9]*)
    seconds=$1
    shift
    ;;
esac
selected=("$@")
((${#selected[@]} > 0)) || mapfile -t selected < <(targets)
for target in "${selected[@]}"; do
  targets | grep -qx "$target" || stop "there is no target '$target': see scripts/fuzz.sh --list"
done

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
cargo +nightly --version >/dev/null 2>&1 || stop "a nightly Rust is missing. Run: rustup toolchain install nightly"
command -v c++ >/dev/null || stop "a C++ compiler is missing: install g++"
tools="$CARGO_TARGET_DIR/tools"
export PATH="$tools/bin:$PATH"
if ! command -v cargo-fuzz >/dev/null; then
  CARGO_TARGET_DIR="$tools/build" cargo install "cargo-fuzz@$CARGO_FUZZ_VERSION" --locked --root "$tools" ||
    stop "cargo-fuzz cannot be installed (try: cargo install cargo-fuzz --locked)"
  rm -rf "$tools/build"
fi
# cargo-fuzz has no --locked, and would write the file anew.
cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null ||
  stop "fuzz/Cargo.lock is not that of Cargo.toml. Run: cargo update -w --manifest-path fuzz/Cargo.toml"
host="$(rustc -vV | sed -n 's/^host: //p')"
for target in "${selected[@]}"; do
  cargo +nightly fuzz build --fuzz-dir fuzz --target-dir "$CARGO_TARGET_DIR/fuzz" "$target"
done
# As cargo-fuzz has it.
export ASAN_OPTIONS=detect_odr_violation=0
# To print one takes more memory than the program may, and libFuzzer prints one of its own.
export RUST_BACKTRACE=0

# run TARGET ARGUMENT...: the program of a target.
run() {
  "$CARGO_TARGET_DIR/fuzz/$host/release/$1" -max_len=$INPUT_MAX_BYTES -timeout=$INPUT_MAX_SECONDS \
    -rss_limit_mb=$MEMORY_MAX_MIB -malloc_limit_mb=$ALLOCATION_MAX_MIB "${@:2}"
}

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
failed=()
table=('| target | executions | seconds | edges | outcome |' '|---|---|---|---|---|')
for target in "${selected[@]}"; do
  found="$CARGO_TARGET_DIR/fuzz-corpus/$target"
  mkdir -p "$found" "fuzz/corpus/$target" "fuzz/artifacts/$target"
  if [[ $mode == minimise ]]; then
    mkdir -p "$scratch/$target"
    cp -p "fuzz/corpus/$target/"seed-* "$scratch/$target/"
    # What has failed once is kept for good, under its name.
    find "fuzz/corpus/$target" -name 'found-*' -exec cp -p {} "$scratch/$target/" \;
    run "$target" -set_cover_merge=1 -use_counters=0 "$scratch/$target" "fuzz/corpus/$target" "$found" >"$scratch/log" 2>&1 ||
      { tail -n 40 "$scratch/log" && stop "$target: the corpus cannot be minimised"; }
    find "$scratch/$target" -type f ! -name 'seed-*' ! -name 'found-*' -printf '%s %p\n' | sort -n |
      awk -v max=$CORPUS_MAX_COUNT '{ path[NR] = $2 }
        END { for (i = 0; i < max && NR > max; i++) kept[int(i * NR / max) + 1]
              for (i = 1; i <= NR; i++) if (NR > max && !(i in kept)) print path[i] }' | xargs -r rm --
    rm -rf "fuzz/corpus/$target"
    mv "$scratch/$target" "fuzz/corpus/$target"
    printf 'ok    %s: %s\n' "$target" "$(find "fuzz/corpus/$target" -type f | wc -l) inputs"
    continue
  fi
  outcome='nothing found'
  run "$target" -max_total_time="$seconds" -print_final_stats=1 -artifact_prefix="fuzz/artifacts/$target/" \
    "$found" "fuzz/corpus/$target" >"$scratch/log" 2>&1 || {
    outcome=failed
    failed+=("$target")
    tail -n 60 "$scratch/log"
  }
  executions="$(sed -n 's/^stat::number_of_executed_units: *//p' "$scratch/log")"
  edges="$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$scratch/log" | tail -n 1)"
  printf '%-5s %s: %s executions in %s s, %s edges, %s\n' "$([[ $outcome == nothing* ]] && echo ok || echo FAIL)" \
    "$target" "${executions:-?}" "$seconds" "${edges:-?}" "$outcome"
  table+=("| \`$target\` | ${executions:-?} | $seconds | ${edges:-?} | $outcome |")
done
if [[ $mode == fuzz && -n ${GITHUB_STEP_SUMMARY:-} ]]; then
  printf '## Fuzzing\n\n' >>"$GITHUB_STEP_SUMMARY"
  printf '%s\n' "${table[@]}" >>"$GITHUB_STEP_SUMMARY"
fi
((${#failed[@]} == 0)) || stop "${failed[*]}: see fuzz/artifacts"
