#!/bin/sh
# shellcheck disable=SC2154 # follows helper.sh and arguments.sh
# Builds with the cache; without the helper, the build is a plain one.

if command -v "$HELPER" >/dev/null 2>&1; then
  exec "$HELPER" build "$@"
fi
warn "the helper is not installed; the build runs without cache"
exec docker build "$@"
