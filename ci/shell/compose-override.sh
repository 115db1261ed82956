#!/bin/sh
# Prints an override file that gives `docker compose build` the cache, without a change of yours:
#
#   ci/shell/compose-override.sh app worker > /tmp/cache.yml
#   docker compose -f compose.yml -f /tmp/cache.yml build
#   dockercache save --compose
#
# Takes the names of the services that are built. All have one archive. `dockercache compose build` does
# all of it.
set -eu

flags=$(dockercache restore --compose -- "$@") || flags=$(dockercache restore) || flags=
echo "services:"
for service in "$@"; do
  printf '  "%s":\n    build:\n      cache_from:' "$service"
  [ -n "$flags" ] || printf ' []'
  echo
  for flag in $flags; do printf '        - "%s"\n' "${flag#--cache-from=}"; done
done
