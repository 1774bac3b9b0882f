#!/usr/bin/env bash
# Checks everything: format, lints, licences, tests, Nix and units, and the scripts that run whole clusters.
#
#   scripts/test.sh            all steps
#   scripts/test.sh STEP...    only these, by the names in the summary
#
# Needs Rust (rust-version of Cargo.toml) with rustfmt and clippy, a C compiler, git, curl and protoc; on Debian, as
# root, it installs what else is missing. One line a step, the output of a step that fails, and PASS or
# FAIL at the end with the exit code. CARGO_TARGET_DIR is honoured; ./target is the default.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CARGO_DENY_VERSION=0.20.2
# Without it the step is left out: a slow registry must not take the time of the tests.
CARGO_DENY_BUILD_TIMEOUT_S=900

# Scripts that start whole clusters. Each exits with 0 if all is well.
CLUSTER_SCRIPTS=(
  scripts/aspen-cluster-smoke.sh
  scripts/aspen-hiqlite-smoke.sh
)

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
export CARGO_TERM_COLOR=never
# What would make the next build quicker takes gigabytes, and a checkout is often built once.
export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"
LOGS="$(mktemp -d)"
trap 'rm -rf "$LOGS"' EXIT

selected=("$@")
known=()
failed=()
skipped=()

is_selected() {
  ((${#selected[@]} == 0)) && return 0
  local step
  for step in "${selected[@]}"; do
    [[ $step == "$1" ]] && return 0
  done
  return 1
}

wanted() {
  known+=("$1")
  is_selected "$1"
}

# step NAME COMMAND...: runs the command, prints one line, and its output if it failed.
step() {
  local name=$1 log="$LOGS/log" began=$SECONDS
  wanted "$name" || return 0
  shift
  if "$@" >"$log" 2>&1 </dev/null; then
    printf 'ok    %4d s  %s\n' $((SECONDS - began)) "$name"
    tell_skipped_tests "$name" "$log"
    # What a script left out by itself.
    sed -n "s/^skip  */skip          $name: /p" "$log"
  else
    local code=$?
    failed+=("$name")
    tail -n 200 "$log"
    printf 'FAIL  %4d s  %s (exit %d: %s)\n' $((SECONDS - began)) "$name" "$code" "$*"
  fi
}

# tell_skipped_tests STEP LOG: says which tests of a step that passed found out nothing, and why.
tell_skipped_tests() {
  local test
  while IFS= read -r test; do
    skipped+=("${test%%: *}")
    printf 'skip          %s: %s\n' "$1" "$test"
  done < <(sed -n 's/^.*skipped: //p' "$2" | sort -u)
}

# skip NAME WHY: says that a step was left out.
skip() {
  wanted "$1" || return 0
  skipped+=("$1")
  printf 'skip          %s: %s\n' "$1" "$2"
}

stop() {
  printf 'FAIL  %s\n' "$1" >&2
  exit 1
}

require_rust() {
  command -v cargo >/dev/null || stop "cargo is missing. Install Rust from https://rustup.rs"
  local tool
  for tool in fmt clippy; do
    cargo "$tool" --version >/dev/null 2>&1 ||
      stop "cargo $tool is missing. Run: rustup component add rustfmt clippy"
  done
}

# in_simulation SUBCOMMAND...: cargo in the simulation's workspace, which has a cfg and a target directory
# of its own, those of scripts/simulate.sh.
SIMULATION=tests/sim/Cargo.toml
in_simulation() {
  CARGO_TARGET_DIR="$CARGO_TARGET_DIR/sim" RUSTFLAGS="${RUSTFLAGS:-} --cfg madsim" \
    cargo "$1" --locked --manifest-path "$SIMULATION" "${@:2}"
}

# A build without the feature has no warnings, and says what it lacks. It is that of aspen-cluster-smoke; cargo repeats
# the warnings of what it has built.
refuses_hiqlite() {
  local said
  said="$(cargo build --locked --release --bins 2>&1)" || { echo "$said"; return 1; }
  ! grep -A 20 '^warning' <<<"$said" || return 1
  if said="$("$CARGO_TARGET_DIR/release/aspen-node" --control-backend hiqlite --check-config 2>&1)"; then
    echo "a build without the feature hiqlite takes the backend"
    return 1
  fi
  grep -F 'not built into this program' <<<"$said" || { echo "$said"; return 1; }
}

# in_tested_build SCRIPT: a smoke test on the programs that are tested.
in_tested_build() { build_tested && SMOKE_BUILD=no SMOKE_PROFILE=dev "$1"; }

# Finds cargo-deny on the PATH, or in the build cache from an earlier run, or builds it there once
# where the registry can be reached.
CARGO_DENY=""
find_cargo_deny() {
  local root="$CARGO_TARGET_DIR/tools"
  if command -v cargo-deny >/dev/null; then
    CARGO_DENY=cargo-deny
  elif [[ -x $root/bin/cargo-deny ]]; then
    CARGO_DENY="$root/bin/cargo-deny"
  elif CARGO_TARGET_DIR="$root/build" timeout "$CARGO_DENY_BUILD_TIMEOUT_S" \
    cargo install "cargo-deny@$CARGO_DENY_VERSION" --locked --root "$root" >"$LOGS/deny" 2>&1; then
    CARGO_DENY="$root/bin/cargo-deny"
    rm -rf "$root/build"
  else
    return 1
  fi
}

source scripts/debian.sh
source scripts/tested-build.sh
# protoc: for the client of etcd in benches/compare-etcd.
install_missing cc:gcc git:git curl:curl protoc:protobuf-compiler python3:python3
# ip: for tests with several hosts, which take root. Others leave them out.
[[ $(id -u) != 0 ]] || install_missing ip:iproute2
require_rust

step format cargo fmt --check
step clippy cargo clippy --locked "${TESTED_FEATURES[@]}" --all-targets -- -D warnings
if ! is_selected deny; then
  known+=(deny)
elif find_cargo_deny; then
  step deny "$CARGO_DENY" --locked check licenses bans sources
else
  skip deny "cargo-deny cannot be installed (try: cargo install cargo-deny --locked)"
fi
step test cargo test --locked "${TESTED_FEATURES[@]}"
BENCHMARKS=benches/compare-etcd/Cargo.toml
in_benchmarks() {
  CARGO_TARGET_DIR="$CARGO_TARGET_DIR/compare" cargo "$1" --locked --manifest-path "$BENCHMARKS" "${@:2}"
}
step benchmarks-format cargo fmt --check --manifest-path "$BENCHMARKS"
step benchmarks-clippy in_benchmarks clippy --all-targets -- -D warnings
step nix scripts/check-nix.sh
step simulation-format cargo fmt --check --manifest-path "$SIMULATION"
step simulation-clippy in_simulation clippy --all-targets -- -D warnings
step simulation-test in_simulation test --lib
step simulate scripts/simulate.sh --seeds 200 --artifacts "$LOGS/simulations"
step simulate-planted scripts/simulate.sh --planted
for script in "${CLUSTER_SCRIPTS[@]}"; do
  name="$(basename "$script" .sh)"
  command=("$script")
  [[ $name != aspen-hiqlite-smoke ]] || command=(in_tested_build "$script")
  if [[ -x $script ]]; then
    step "$name" "${command[@]}"
  elif wanted "$name"; then
    failed+=("$name")
    printf 'FAIL          %s: %s is missing or not executable\n' "$name" "$script"
  fi
done

step without-hiqlite refuses_hiqlite
step documents scripts/check-docs.sh

# The scenarios of nixos/tests, on systemd hosts where they can be run. Their nodes are those of the tests.
hosts_scenarios="$(scripts/test-hosts.sh --list)"
hosts_wanted=
for scenario in $hosts_scenarios; do
  ! is_selected "hosts-$scenario" || hosts_wanted=yes
done
no_hosts=
if [[ -n $hosts_wanted ]] && ! no_hosts="$(scripts/test-hosts.sh --check 2>&1)"; then
  no_hosts="${no_hosts:-hosts cannot be run here}"
else
  no_hosts=
fi
for scenario in $hosts_scenarios; do
  if [[ -n $no_hosts ]]; then
    skip "hosts-$scenario" "${no_hosts##*$'\n'}"
  else
    step "hosts-$scenario" scripts/test-hosts.sh "$scenario"
  fi
done

# Links that lead nowhere, and what else rustdoc finds wrong, for users of the crate and for those who change it.
in_rustdoc() {
  RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings" cargo doc --locked "${TESTED_FEATURES[@]}" --no-deps "$@"
}
step rustdoc in_rustdoc
step rustdoc-private in_rustdoc --document-private-items

for name in ${selected[@]+"${selected[@]}"}; do
  [[ " ${known[*]} " == *" $name "* ]] || stop "no step is called '$name'. Steps: ${known[*]}"
done
if ((${#failed[@]} > 0)); then
  printf 'FAIL  after %d s: %s\n' "$SECONDS" "${failed[*]}"
  exit 1
fi
printf 'PASS  in %d s%s\n' "$SECONDS" "${skipped[*]:+, left out: ${skipped[*]}}"
