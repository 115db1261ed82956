#!/bin/sh
# Prints flags that give `docker buildx bake` the cache, without a change of its file:
#
#   docker buildx bake $(ci/shell/bake-flags.sh app worker)
#   DOCKERCACHE_DIR=/tmp/dockercache-app dockercache save -t acme/app .
#
# Takes the names of targets. Each has its own archive, in $DOCKERCACHE_DIR-<name>; `save` takes the
# arguments of a plain `docker build` of the target.
set -eu

for target in "$@"; do
  flags=$(DOCKERCACHE_DIR="${DOCKERCACHE_DIR:-/tmp/dockercache}-$target" dockercache restore) || continue
  for flag in $flags; do printf '%s\n' "--set=$target.${flag#--}"; done
done
