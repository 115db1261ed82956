#!/bin/sh
# Run a step of the helper: the one that was verified, or else the image's own if none was to be
# installed. Only a parameter that can't be right (2) ends the job.
helper=$(cat "$HOME/.dockercache/helper" 2>/dev/null || command -v dockercache || true)
if [ ! -x "$helper" ]; then
  echo "dockercache: warning: the helper is not installed; the job goes on without cache" >&2
  exit 0
fi
"$helper" circleci "$STEP" || [ $? != 2 ] || exit 2
