#!/usr/bin/env bash
# Installs the groups of Debian packages that deploy/packages.txt lists; does nothing when all are there.
# usage: deploy/install_packages.sh GROUP...       as root, or as a user with sudo
set -euo pipefail
list=$(dirname "${BASH_SOURCE[0]}")/packages.txt
[ $# -gt 0 ] || { echo "usage: $0 GROUP...   (groups: $(awk '!/^#/ {print $1}' "$list" | sort -u | xargs))" >&2; exit 2; }

missing=()
for group in "$@"; do
  packages=$(awk -v group="$group" '$1 == group {print $2}' "$list")
  [ -n "$packages" ] || { echo "$0: $list has no group '$group'" >&2; exit 2; }
  for package in $packages; do
    # A Node.js from elsewhere brings its own npm and conflicts with Debian's package.
    if [ "$package" = npm ] && command -v npm >/dev/null; then continue; fi
    dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "packages: all there ($*)"
  exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "$0: needs root or sudo to install: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "packages: installing ${missing[*]}"
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}")
# Fresh machines have no package lists and old ones may name files that are gone: both are mended by one update.
if ! "${install[@]}" >/dev/null 2>&1 </dev/null; then
  "${as_root[@]}" apt-get update -qq </dev/null
  "${install[@]}" >/dev/null </dev/null
fi
