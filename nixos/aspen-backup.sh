#!/bin/sh
# Takes a backup into $BACKUP_DIRECTORY and removes all but the latest $BACKUP_KEEP of them.
#
# `aspen backup` gives a file its name once it is whole and on the disk, so every file of that name counts,
# and older ones are removed only behind a new one. The node is found by ASPEN_ADDR.
set -eu

cd "$BACKUP_DIRECTORY"
# What a backup that was cut off has left behind: the unit runs once at a time.
rm -f aspen-*.backup.partial

token="${CREDENTIALS_DIRECTORY:-/nonexistent}/http-token"
if [ -e "$token" ]; then
  export ASPEN_TOKEN_FILE="$token"
fi
aspen backup "aspen-$(date -u +%Y-%m-%dT%H-%M-%S.%3NZ).backup"

# The names sort by time.
set -- aspen-*.backup
while [ "$#" -gt "$BACKUP_KEEP" ]; do
  rm -f "$1"
  shift
done
