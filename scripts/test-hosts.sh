#!/usr/bin/env bash
# Runs the scenarios of nixos/tests on real systemd hosts: Debian under systemd-nspawn, each with an address of
# its own on a bridge, the packaged units, and the binaries of this checkout.
#
#   scripts/test-hosts.sh                  all scenarios
#   scripts/test-hosts.sh SCENARIO...      only these
#   scripts/test-hosts.sh --list           their names
#   scripts/test-hosts.sh --check          makes what they need, boots one host, and runs none
#
# Needs root, Linux with systemd-nspawn, and Debian's archive for the first run; on Debian or Ubuntu it installs what is
# missing. The hosts' system is made once and kept in ~/.cache/aspen (ASPEN_HOSTS_CACHE). The hosts are in a
# network namespace of their own, and all is removed at the end; the journals of a scenario that failed are kept.
# ASPEN_BINARIES is a directory with aspen-node and aspen; without it they are built with the profile dev.
# Exit code: 0 all passed, 1 one failed, 2 a scenario is unknown, 77 hosts cannot be run here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SUITE=bookworm
PACKAGES=systemd,systemd-sysv,dbus,iproute2,nftables,procps,curl,udev,libnss-myhostname,libfaketime

cannot() {
  printf 'hosts cannot be run here: %s\n' "$1" >&2
  exit 77
}

source scripts/debian.sh
if [[ ${1:-} == --list ]]; then
  install_missing python3:python3
  exec python3 -c 'import sys; sys.path.insert(0, "tests/hosts"); import machines; print(*machines.SCENARIOS, sep="\n")'
fi
((EUID == 0)) || cannot "it takes root"
install_missing python3:python3 systemd-nspawn:systemd-container mmdebstrap:mmdebstrap ip:iproute2 nsenter:util-linux
for tool in python3 systemd-nspawn mmdebstrap ip nsenter; do
  command -v "$tool" >/dev/null || cannot "$tool is missing"
done

CACHE="${ASPEN_HOSTS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/aspen}"
DEBIAN="$CACHE/debian-$SUITE-$(printf %s "$PACKAGES" | cksum | cut -d ' ' -f 1)"
if [[ ! -d $DEBIAN ]]; then
  # Ubuntu's apt does not know the keys of Debian's archive. mmdebstrap hands them to it, and asks gpg whether it must.
  install_missing /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring gpg:gpg
  mkdir -p "$CACHE"
  making="$(mktemp -d "$CACHE/making-XXXXXX")"
  trap 'rm -rf --one-file-system "$making"' EXIT
  mmdebstrap --quiet --variant=minbase --include="$PACKAGES" "$SUITE" "$making/root" ||
    cannot "the system of the hosts could not be made"
  mv "$making/root" "$DEBIAN" 2>/dev/null || [[ -d $DEBIAN ]]
  rm -rf --one-file-system "$making"
  trap - EXIT
fi

if [[ ${1:-} == --check ]]; then
  # A host that boots: containers often have the tools, and not the rights.
  set -- --probe
  ASPEN_BINARIES=.
fi
source scripts/tested-build.sh
find_binaries

scratch="$(mktemp -d "$CACHE/run-XXXXXX")"
trap 'rm -rf --one-file-system "$scratch"' EXIT
python3 tests/hosts/run.py --debian "$DEBIAN" --binaries "$ASPEN_BINARIES" --units nixos --scratch "$scratch" \
  --logs "${ASPEN_HOSTS_LOGS:-$CACHE/logs}" "$@"
