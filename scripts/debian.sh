# shellcheck shell=bash
# Sourced by the scripts beside it: programs that they need, installed where they are missing.

# install_missing PROGRAM:PACKAGE...: installs the Debian packages of programs that are not on the PATH, or of files
# that are not there, which are given with their whole path. Ends the script where it cannot.
install_missing() {
  local missing=() pair
  for pair in "$@"; do
    [[ $pair == /* && -e ${pair%%:*} ]] || command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  ((${#missing[@]} > 0)) || return 0
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}. Install them, or run this as root on Debian" >&2
    exit 2
  fi
  if ! (install_quietly "${missing[@]}" >/dev/null); then
    echo "cannot install ${missing[*]}" >&2
    exit 2
  fi
}

# install_quietly PACKAGE...: installs packages and starts none of their servers. For a subshell of its own, whose end
# takes the policy away, also where it was interrupted.
install_quietly() {
  local policy=/usr/sbin/policy-rc.d
  # Debian starts a server with its package, unless it is told not to.
  if [[ ! -e $policy ]]; then
    # shellcheck disable=SC2064 # Expanded now: it is local.
    trap "rm -f '$policy'" EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" || return
  fi
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"
}
