#!/bin/sh
# shellcheck disable=SC2154 # follows helper.sh
# Takes the build's cache out of the engine. CircleCI's key is made of the level files and of
# `variant`, which is the same for all: a second upload of the same build is skipped. It differs
# only where an archive came from this very key and was not good enough, damaged or with another
# base image: then the new one, being newer, is restored from then on.

if [ -n "$PARAM_COMPRESSION" ]; then export DOCKERCACHE_COMPRESSION="$PARAM_COMPRESSION"; fi
result=$(run_helper save --format env)
echo "$result"

# The key goes with the archive: CircleCI tells nobody what it has restored.
restored=$(cat "$PARAM_CACHE_DIR/dockercache.key" 2>/dev/null || true)
key=$(cat "$KEYS/level-1" 2>/dev/null || true)
case $result in
  *"DOCKERCACHE_SAVED='true'"*)
    if [ -n "$key" ] && [ "$restored" = "$key" ]; then
      cp "$PARAM_CACHE_DIR/index.json" "$KEYS/variant"
    fi
    ;;
esac
if [ -n "$key" ] && [ "$restored" != "$key" ]; then
  mkdir -p "$PARAM_CACHE_DIR" || exit 0
  printf '%s\n' "$key" >"$PARAM_CACHE_DIR/dockercache.key" || warn "nothing can be saved"
fi
