#!/bin/sh
# shellcheck disable=SC2153,SC2154 # follows helper.sh
# Puts a `docker` before the real one, for the steps that follow: `docker build` then goes through
# the helper, however it is called. Takes effect where the job's shell is bash.

if ! docker=$(command -v docker) || ! wrapped=$(command -v "$HELPER"); then
  warn "\`docker build\` is not wrapped: docker or the helper is missing"
  exit 0
fi
if [ -z "${BASH_ENV:-}" ] || ! command -v bash >/dev/null 2>&1; then
  warn "\`docker build\` is not wrapped: this image has no bash; use the command \`build\`"
  exit 0
fi

quoted() {
  printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"
}

mkdir -p "$KEYS/bin"
printf '%s\n' "$DOCKER_SHIM" >"$KEYS/bin/docker"
chmod 755 "$KEYS/bin/docker"
{
  echo "export DOCKERCACHE_DIR=$(quoted "$PARAM_CACHE_DIR")"
  if [ -n "$PARAM_STRATEGY" ]; then echo "export DOCKERCACHE_STRATEGY=$PARAM_STRATEGY"; fi
  echo "export DOCKERCACHE_DOCKER=$(quoted "$docker")"
  echo "export DOCKERCACHE_HELPER=$(quoted "$wrapped")"
  echo "export PATH=$(quoted "$KEYS/bin"):\$PATH"
} >>"$BASH_ENV"
echo "\`docker build\` goes through dockercache from here on"
