#!/bin/sh
# shellcheck disable=SC2154 # follows helper.sh
# Checks what CircleCI has restored, and makes it ready for the build. The flags for a plain
# `docker buildx build` are left in a file.

if [ -d "$KEYS" ]; then
  run_helper restore >"$KEYS/flags"
else
  run_helper restore >/dev/null
fi
