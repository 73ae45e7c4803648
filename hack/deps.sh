#!/bin/sh
# Installs what the build and the tests need and this machine lacks: a C
# compiler and libseccomp for the shim, and tools that unpack Debian packages.
set -eu

need=""
command -v gcc >/dev/null || need="$need gcc"
command -v pkg-config >/dev/null || need="$need pkg-config"
found=""
for archive in /usr/lib/libseccomp.a /usr/lib64/libseccomp.a /usr/lib/*/libseccomp.a; do
  [ -e "$archive" ] && found=yes
done
[ -n "$found" ] || need="$need libseccomp-dev"
[ -z "$need" ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "install these with your package manager, then run make again:$need (and libseccomp's static library)" >&2
  exit 1
fi
if [ "$(id -u)" != 0 ]; then
  echo "missing:$need. Install them: sudo apt-get install$need" >&2
  exit 1
fi
echo "installing$need"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $need libc6-dev >/dev/null
