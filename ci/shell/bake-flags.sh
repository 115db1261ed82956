#!/bin/sh
# Prints flags that give `docker buildx bake` the cache, without a change of its file:
#
#   docker buildx bake $(ci/shell/bake-flags.sh)
#   dockercache save --bake
#
# All targets have one archive. `save --bake` takes the arguments of your own bake: files, targets.
set -eu

flags=$(dockercache restore) || exit 0
for flag in $flags; do printf '%s\n' "--set=*.${flag#--}"; done
