#!/bin/sh
# For any CI, or none: builds with an archive in a directory that jobs share, such as a mounted
# volume. Takes the arguments of `docker build`.
#
#   DOCKERCACHE_SHARED    the directory that outlives the job
#   DOCKERCACHE_PROJECT   a name that keeps the archives of several images apart
#   DOCKERCACHE_READ_ONLY set it in jobs that must not write, such as those of pull requests
set -eu

shared=${DOCKERCACHE_SHARED:?set it to a directory that outlives the job}
project=${DOCKERCACHE_PROJECT:-$(basename "$PWD")}
# Jobs may run side by side: each works on its own copy, and takes and puts it back under a lock.
# Blobs are never changed once they are written, so that links to them are enough.
mkdir -p "$shared"
exec 9>>"$shared/$project.lock"
work=$(mktemp -d "$shared/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
export DOCKERCACHE_DIR="$work/archive"

flock 9
if [ -d "$shared/$project" ]; then
  cp -al "$shared/$project" "$DOCKERCACHE_DIR" || true
  # A lock that is linked would be that of all jobs.
  rm -f "$DOCKERCACHE_DIR/dockercache.lock"
fi
flock -u 9
dockercache restore >/dev/null || true
dockercache build "$@"
if [ -n "${DOCKERCACHE_READ_ONLY:-}" ]; then exit 0; fi
if saved=$(dockercache save --format env); then
  case $saved in
    *"DOCKERCACHE_SAVED='true'"*)
      flock 9
      if [ -d "$shared/$project" ]; then mv "$shared/$project" "$work/old"; fi
      mv "$DOCKERCACHE_DIR" "$shared/$project"
      ;;
  esac
fi
