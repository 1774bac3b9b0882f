# shellcheck shell=bash
# Sourced by the scripts beside it: programs that they need, installed where they are missing.

# install_missing PROGRAM:PACKAGE...: installs the Debian packages of programs that are not on the PATH, or of files
# that are not there, which are given with their whole path. Ends the script where it cannot.
install_missing() {
  local missing=() pair policy=/usr/sbin/policy-rc.d made_policy=
  for pair in "$@"; do
    [[ $pair == /* && -e ${pair%%:*} ]] || command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  ((${#missing[@]} > 0)) || return 0
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}. Install them, or run this as root on Debian" >&2
    exit 2
  fi
  # Debian starts a server with its package, unless it is told not to.
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made_policy=yes
  fi
  local code=0
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"; } >/dev/null ||
    code=$?
  [[ -z $made_policy ]] || rm -f "$policy"
  if ((code != 0)); then
    echo "cannot install ${missing[*]}" >&2
    exit 2
  fi
}
