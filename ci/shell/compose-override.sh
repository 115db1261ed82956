#!/bin/sh
# Prints an override file that gives `docker compose build` the cache, without a change of yours:
#
#   ci/shell/compose-override.sh app worker > /tmp/cache.yml
#   docker compose -f compose.yml -f /tmp/cache.yml build
#   DOCKERCACHE_DIR=/tmp/dockercache-app dockercache save -t acme/app .
#
# Takes the names of services. Each has its own archive, in $DOCKERCACHE_DIR-<name>; `save` takes the
# arguments of a plain `docker build` of the service.
set -eu

echo "services:"
for service in "$@"; do
  flags=$(DOCKERCACHE_DIR="${DOCKERCACHE_DIR:-/tmp/dockercache}-$service" dockercache restore) || flags=
  printf '  "%s":\n    build:\n      cache_from:' "$service"
  [ -n "$flags" ] || printf ' []'
  echo
  for flag in $flags; do printf '        - "%s"\n' "${flag#--cache-from=}"; done
done
