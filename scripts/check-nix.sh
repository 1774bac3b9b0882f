#!/usr/bin/env bash
# Checks what can be checked of the flake, the module, the units and the scenarios without building anything.
#
#   scripts/check-nix.sh
#
# One line a check. A tool that is missing is installed where it can be, and its check is left out, by name,
# where it cannot. Exits with 0 if nothing failed. CARGO_TARGET_DIR is honoured; ./target is the default.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

DEADNIX_VERSION=1.3.1
NIXFMT_VERSION=0.5.3
# A slow registry must not take the time of the tests.
TOOL_BUILD_TIMEOUT_S=900
# In tenths, as systemd-analyze takes it.
EXPOSURE_MAX=15
# Directives that systemd has known since 254. Older ones pass them over, with a warning.
SINCE_254='^Restart(Steps|MaxDelaySec)='

TARGET="${CARGO_TARGET_DIR:-$PWD/target}"
WORK="$(mktemp -d)"
trap 'rm -rf "$WORK"' EXIT
failed=()

mapfile -t nix_files < <(git ls-files '*.nix')
mapfile -t scenarios < <(git ls-files 'nixos/tests/*.py' ':!nixos/tests/common.py')

# check NAME COMMAND...: runs the command, prints one line, and its output if it failed.
check() {
  local name=$1
  shift
  if "$@" >"$WORK/log" 2>&1 </dev/null; then
    printf 'ok    %s\n' "$name"
  else
    cat "$WORK/log"
    printf 'FAIL  %s\n' "$name"
    failed+=("$name")
  fi
}

skip() { printf 'skip  %s: %s\n' "$1" "$2"; }

# Installs a Debian package for a program, where that is possible.
find_program() {
  command -v "$1" >/dev/null && return 0
  (source scripts/debian.sh && install_missing "$1:$2") >/dev/null 2>&1
  command -v "$1" >/dev/null
}

# find_crate PROGRAM CRATE VERSION: finds a program in the build cache, or builds it there once, and prints
# its path. One on the PATH may be another version, which formats in another way.
find_crate() {
  local root="$TARGET/tools"
  if [[ ! -x $root/bin/$1 ]]; then
    CARGO_TARGET_DIR="$root/build" timeout "$TOOL_BUILD_TIMEOUT_S" \
      cargo install "$2@$3" --locked --root "$root" >/dev/null 2>&1 || return 1
    rm -rf "$root/build"
  fi
  echo "$root/bin/$1"
}

parse() {
  local file code=0
  for file in "${nix_files[@]}"; do
    nix-instantiate --parse "$file" >/dev/null || code=1
  done
  return "$code"
}

# The scenarios run behind common.py, with the names that the test driver gives them. So does the driver of the
# hosts on which they run without NixOS.
python_scenarios() {
  local scenario code=0
  for scenario in "${scenarios[@]}"; do
    cat nixos/tests/common.py "$scenario" >"$WORK/$(basename "$scenario")"
    PYFLAKES_BUILTINS=start_all,subtest,node1,node2,node3,joiner,replacement,source,fresh,node \
      "$@" "$WORK/$(basename "$scenario")" || code=1
  done
  for scenario in tests/hosts/*.py; do
    "$@" "$scenario" || code=1
  done
  return "$code"
}
compile_scenario() { python3 -c 'import sys; compile(open(sys.argv[1]).read(), sys.argv[1], "exec")' "$1"; }

# Each scenario is a test on virtual machines and one on hosts.
scenarios_are_tests() {
  local scenario
  diff <(printf '%s\n' "${scenarios[@]}" | sed 's#.*/##; s#\.py$##' | sort) \
    <(scripts/test-hosts.sh --list | sort) || { echo "tests/hosts/machines.py has other scenarios"; return 1; }
  for scenario in "${scenarios[@]}"; do
    grep -qE "^  $(basename "$scenario" .py) = " nixos/tests/default.nix ||
      { echo "nixos/tests/default.nix has no test for $scenario"; return 1; }
  done
}

# The unit files, with programs that are on this machine.
units() {
  local unit since=.^
  (($(systemctl --version | awk 'NR == 1 { print $2 }') < 254)) && since=$SINCE_254
  mkdir -p "$WORK/units"
  for unit in nixos/*.service nixos/*.timer; do
    sed -E "s#^(ExecStart=)/usr/[^ ]+#\1/bin/true#; /$since/d" "$unit" >"$WORK/units/${unit##*/}"
  done
}
verify_units() {
  local said
  units
  said=$(systemd-analyze verify --man=no "$WORK"/units/* 2>&1) || { echo "$said"; return 1; }
  # It warns of misspelt directives, and ends well.
  [[ -z $said ]] || { echo "$said"; return 1; }
}
score_unit() {
  units
  systemd-analyze security --offline=true --threshold="$EXPOSURE_MAX" "$WORK/units/aspen.service"
}

# The one input of the flake is the one that is locked.
lock_matches() {
  python3 - <<'END'
import json, re

lock = json.load(open("flake.lock"))
assert lock["version"] == 7, lock["version"]
assert lock["nodes"][lock["root"]] == {"inputs": {"nixpkgs": "nixpkgs"}}, "other inputs are locked"
assert set(lock["nodes"]) == {lock["root"], "nixpkgs"}, "more is locked than there are inputs"
declared = re.findall(r"^\s*inputs[. ].*", open("flake.nix").read(), re.MULTILINE)
assert len(declared) == 1, declared
[(owner, repo, ref)] = re.findall(r'inputs\.nixpkgs\.url = "github:([^/]+)/([^/]+)/([^"]+)";', declared[0])
original, locked = lock["nodes"]["nixpkgs"]["original"], lock["nodes"]["nixpkgs"]["locked"]
assert original == {"type": "github", "owner": owner, "repo": repo, "ref": ref}, original
assert (locked["type"], locked["owner"], locked["repo"]) == ("github", owner, repo), locked
assert re.fullmatch(r"[0-9a-f]{40}", locked["rev"]), locked["rev"]
assert re.fullmatch(r"sha256-[A-Za-z0-9+/]{43}=", locked["narHash"]), locked["narHash"]
END
}

# What the module writes is a configuration that the daemon takes.
settings() {
  source scripts/tested-build.sh
  find_binaries
  # The daemon takes variables of that name for settings.
  env --unset=ASPEN_BINARIES "$ASPEN_BINARIES/aspen-node" --config tests/fixtures/nixos-settings.toml --check-config
}

# The documents are those that the options make, where a nix that knows flakes and can reach nixpkgs is there.
can_evaluate() {
  command -v nix >/dev/null &&
    timeout 60 nix --extra-experimental-features 'nix-command flakes' eval .#nixosModules --apply 'builtins.attrNames' \
      >/dev/null 2>&1
}
document() {
  nix --extra-experimental-features 'nix-command flakes' eval --raw \
    ".#packages.x86_64-linux.aspen-documents.files.\"$1\"" | diff --unified "$2" -
}

if find_program nix-instantiate nix-bin; then
  check "nix files parse" parse
else
  skip "nix files parse" "nix-instantiate cannot be installed (Debian: nix-bin)"
fi
if nixfmt=$(find_crate nixfmt nixfmt_rs "$NIXFMT_VERSION"); then
  check "nix files are formatted" "$nixfmt" --check "${nix_files[@]}"
else
  skip "nix files are formatted" "nixfmt cannot be installed (cargo install nixfmt_rs)"
fi
if deadnix=$(find_crate deadnix deadnix "$DEADNIX_VERSION"); then
  check "nix files have no dead code" "$deadnix" --fail "${nix_files[@]}"
else
  skip "nix files have no dead code" "deadnix cannot be installed (cargo install deadnix)"
fi
if find_program python3 python3; then
  check "scenarios compile" python_scenarios compile_scenario
  check "each scenario is a test" scenarios_are_tests
  check "flake.lock is that of flake.nix" lock_matches
else
  skip "scenarios compile, flake.lock is that of flake.nix" "python3 cannot be installed"
fi
if find_program pyflakes3 pyflakes3; then
  check "scenarios have no mistakes" python_scenarios pyflakes3
else
  skip "scenarios have no mistakes" "pyflakes cannot be installed (Debian: pyflakes3)"
fi
if find_program systemd-analyze systemd; then
  check "units are valid" verify_units
  check "the node's unit is closed" score_unit
else
  skip "units are valid, the node's unit is closed" "systemd-analyze cannot be installed (Debian: systemd)"
fi
check "the daemon takes what the module writes" settings
if can_evaluate; then
  check "docs/nixos-options.md is current" document nixos-options.md docs/nixos-options.md
  check "tests/fixtures/nixos-settings.toml is current" document nixos-settings.toml tests/fixtures/nixos-settings.toml
else
  skip "documents of the options are current" "nix with flakes, or nixpkgs, is not there"
fi

if ((${#failed[@]} > 0)); then
  exit 1
fi
