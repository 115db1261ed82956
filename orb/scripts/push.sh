#!/bin/sh
# Push each name of the image with each tag.
set -euf
tags=$(printf '%s\n' "$PARAM_TAG" | awk "$EXPAND")
names=$(printf '%s\n' "$PARAM_IMAGE" | awk -v tags="$(printf '%s' "$tags" | tr '\n' ,)" "$EXPAND")
for name in $names; do docker push "$name"; done
