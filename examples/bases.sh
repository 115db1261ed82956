#!/usr/bin/env bash
# Gives an engine the images that examples/wordcount is built from. This is what a registry does
# on a real CI machine, so the demo doesn't count its time.
#
#   bases.sh NAME    load debian-toolchain:12 and busybox:1 into the engine that engine.sh started
#
# Made once and kept: pulled where a registry answers, else made from Debian's packages.
# BASES=pull or BASES=packages insists on one of them.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
engine=$here/../tests/engines/engine.sh
home=${DOCKERCACHE_ENGINES:-/var/lib/dockercache-engines}
name=${1:?usage: bases.sh NAME}
generation=$("$engine" list | sed -n "s/^$name \([^ ]*\) .*/\1/p")
archive=$home/wordcount-bases-$generation.tar

lines=$("$engine" env "$name")
set -a
eval "$lines"
set +a
PATH=$ENGINE_BIN:$PATH

# Builds the toolchain on Debian's own image. The engine's containers have no way out of the
# machine, so this one step uses the machine's network.
pull() {
  timeout 60 docker pull --quiet busybox:1 && timeout 300 docker pull --quiet debian:bookworm-slim &&
    timeout 600 docker build --quiet --network host --tag debian-toolchain:12 - <<'DOCKERFILE'
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends gcc make libc6-dev
DOCKERFILE
}

packages() {
  local tree
  tree=$("$engine" tree bookworm gcc make libc6-dev) || exit
  "$engine" import "$name" "$tree" debian-toolchain:12 || exit
  "$engine" base-image "$name" busybox:1
}

if [ ! -e "$archive" ]; then
  case ${BASES:-either} in
    pull) pull >&2 ;;
    packages) packages ;;
    either)
      pull >/dev/null 2>&1 || {
        echo "bases.sh: no registry answers: making the base images from Debian's packages" >&2
        packages
      }
      ;;
    *) echo "bases.sh: BASES is \`pull\` or \`packages\`" >&2 && exit 2 ;;
  esac
  docker save --output "$archive.new" debian-toolchain:12 busybox:1
  mv "$archive.new" "$archive"
else
  docker load --quiet --input "$archive" >/dev/null
fi
