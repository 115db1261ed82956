#!/bin/sh
# Prints flags that give `docker buildx bake` the cache, without a change of its file:
#
#   docker buildx bake $(ci/shell/bake-flags.sh)
#   dockercache save --bake
#
# Takes the arguments of the bake. All targets have one archive. `dockercache buildx bake` does all of it.
set -eu

flags=$(dockercache restore --bake -- "$@") || flags=$(dockercache restore) || exit 0
for flag in $flags; do printf '%s\n' "--set=*.${flag#--}"; done
