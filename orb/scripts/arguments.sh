#!/bin/sh
# shellcheck disable=SC2154 # follows helper.sh
# Makes the arguments of `docker build` from the parameters, in "$@". One line is one value, so
# that blanks and quotes need no care, and no value is ever printed.

set -f
old_ifs=$IFS
IFS='
'
set --
for line in $(expand "$PARAM_IMAGE"); do set -- "$@" --tag "$line"; done
for line in $(expand "$PARAM_BUILD_ARGS"); do set -- "$@" --build-arg "$line"; done
for line in $(expand "$PARAM_EXTRA_ARGS"); do set -- "$@" "$line"; done
IFS=$old_ifs
if [ -n "$PARAM_TARGET" ]; then set -- "$@" --target "$(expand "$PARAM_TARGET")"; fi
context=$(expand "$PARAM_CONTEXT")
dockerfile=$(expand "$PARAM_DOCKERFILE")
set -- "$@" --file "${dockerfile:-${context%/}/Dockerfile}" "$context"
