#!/bin/sh
# Installs one exact version of dockercache, checked before it becomes a program.
#
#   DOCKERCACHE_VERSION    the version
#   DOCKERCACHE_SHA256     the SHA-256 of its file for this machine, from the release's SHA256SUMS
#   DOCKERCACHE_BASE_URL   a mirror, if you have one
#   DOCKERCACHE_INSTALL    the directory to install into; default: ~/.local/bin
set -eu

version=${DOCKERCACHE_VERSION:?set it to a release, such as 1.0.0}
sum=${DOCKERCACHE_SHA256:?take it from the SHA256SUMS of that release}
base=${DOCKERCACHE_BASE_URL:-https://github.com/dockercache/dockercache/releases/download}
dir=${DOCKERCACHE_INSTALL:-$HOME/.local/bin}

case $(uname -m) in
  x86_64 | amd64) file=dockercache-linux-amd64 ;;
  aarch64 | arm64) file=dockercache-linux-arm64 ;;
  *) echo "install.sh: no dockercache for $(uname -m)" >&2 && exit 1 ;;
esac
is_good() {
  printf '%s  %s\n' "$sum" "$1" | sha256sum -c - >/dev/null 2>&1
}

if is_good "$dir/dockercache"; then exit 0; fi
mkdir -p "$dir"
trap 'rm -f "$dir/dockercache.new"' EXIT
if command -v curl >/dev/null 2>&1; then
  curl -fsSL --retry 3 -o "$dir/dockercache.new" "$base/v$version/$file"
else
  wget -q -O "$dir/dockercache.new" "$base/v$version/$file"
fi
is_good "$dir/dockercache.new" || {
  echo "install.sh: $base/v$version/$file has another SHA-256 than $sum" >&2
  exit 1
}
chmod 755 "$dir/dockercache.new"
mv -f "$dir/dockercache.new" "$dir/dockercache"
"$dir/dockercache" --version
