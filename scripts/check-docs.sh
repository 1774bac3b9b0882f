#!/usr/bin/env bash
# Runs the commands that the documents show, and fails where one prints something else than they say.
#
#   scripts/check-docs.sh                 README.md and docs/getting-started.md
#   scripts/check-docs.sh DOCUMENT...     these
#
# What is run are their `console` blocks (tests/documents/run.py has the rules). docs/http-api.md is run by
# tests/it/http_docs.rs, and docs/cluster-smoke.md is what scripts/aspen-cluster-smoke.sh does. Commands on several
# machines are run in network namespaces. What is left out is said, with the reason.
# Nodes get a network namespace of their own where one can be made (by root, or where users may have namespaces),
# because documents name fixed ports; elsewhere the ports 4600 to 4624 must be free, and there are no further machines.
# ASPEN_BINARIES is a directory with aspen-node and aspen; without it they are
# built with the profile dev. Exit code: 0 all is as documented, 1 something is not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

DOCUMENTS=("$@")
((${#DOCUMENTS[@]} > 0)) || DOCUMENTS=(README.md docs/getting-started.md)

for tool in python3 curl; do
  command -v "$tool" >/dev/null || {
    printf 'FAIL  %s is missing: install it\n' "$tool" >&2
    exit 1
  }
done

source scripts/tested-build.sh
find_binaries

# A network of the nodes' own: loopback and nothing else.
alone=() own_network=()
if unshare --net --map-root-user ip link set lo up 2>/dev/null; then
  # shellcheck disable=SC2016  # $@ is that of the shell in the namespace.
  alone=(unshare --net --map-root-user bash -c 'ip link set lo up && exec "$@"' bash)
  own_network=(--own-network)
fi
exec ${alone[@]+"${alone[@]}"} python3 tests/documents/run.py --binaries "$ASPEN_BINARIES" \
  ${own_network[@]+"${own_network[@]}"} "${DOCUMENTS[@]}"
