#!/bin/sh
# shellcheck disable=SC2154 # follows helper.sh and arguments.sh
# Writes a file for each level of the cache key. CircleCI makes keys of their checksums, and loses
# the cache where a file is missing: so all are there before the helper is asked.

if ! mkdir -p "$KEYS"; then
  warn "no cache for this job: \`$KEYS\` can't be made"
  exit 0
fi
for level in 1 2 3 4 5 6 7 8; do echo none >"$KEYS/level-$level"; done
echo first >"$KEYS/variant"

# The image's name without its tag, which may be another one in every job.
project=$(expand "${PARAM_PROJECT:-$PARAM_IMAGE}" | head -n 1)
case ${project##*/} in *:*) project=${project%:*} ;; esac
salt=$(expand "$PARAM_KEY_PREFIX/$PARAM_CACHE_VERSION")

if [ -n "$project" ]; then
  run_helper key --write "$KEYS" --salt "$salt" --project "$project" -- "$@"
else
  run_helper key --write "$KEYS" --salt "$salt" -- "$@"
fi
