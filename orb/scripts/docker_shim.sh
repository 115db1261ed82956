#!/bin/sh
# Stands before `docker`: hands a build to dockercache, and anything else to docker itself. So
# does a build that dockercache started.

if [ -z "${DOCKERCACHE_WRAPPED:-}" ]; then
  case "${1:-} ${2:-}" in
    "build "*) shift ;;
    "buildx build" | "buildx b" | "image build" | "builder build") shift 2 ;;
    *) exec "$DOCKERCACHE_DOCKER" "$@" ;;
  esac
  export DOCKERCACHE_WRAPPED=1
  exec "$DOCKERCACHE_HELPER" build "$@"
fi
exec "$DOCKERCACHE_DOCKER" "$@"
