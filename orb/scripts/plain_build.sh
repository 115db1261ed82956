#!/bin/sh
# `docker build` with the parameters, one value a line, for a job without the helper.
set -euf
IFS='
'
values() { printf '%s\n' "$2" | awk -v option="$1" -v tags="${3:-}" "$EXPAND"; }
tags=$(values '' "$PARAM_TAG")
arguments=$(values --tag "$PARAM_IMAGE" "$(printf '%s' "$tags" | tr '\n' ,)" &&
  values --build-arg "$PARAM_BUILD_ARGS" && values --target "$PARAM_TARGET" &&
  values --platform "$PARAM_PLATFORM" && values --file "$PARAM_DOCKERFILE" &&
  values '' "$PARAM_EXTRA_ARGS" && values '' "${PARAM_DOCKER_CONTEXT:-.}")
# shellcheck disable=SC2086 # split into lines
exec docker build $arguments
