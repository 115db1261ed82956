#!/bin/sh
# Log in with what the two variables hold. The password is never an argument.
if ! user=$(printenv "$PARAM_DOCKER_USERNAME") || ! printenv "$PARAM_DOCKER_PASSWORD" >/dev/null; then
  echo "dockercache: error: set $PARAM_DOCKER_USERNAME and $PARAM_DOCKER_PASSWORD in a context or the project" >&2
  exit 1
fi
printenv "$PARAM_DOCKER_PASSWORD" | docker login --username "$user" --password-stdin "$PARAM_REGISTRY"
