#!/bin/sh
# shellcheck disable=SC2034 # used by the scripts that follow
# The start of every script: finds the helper, and keeps its troubles from failing the job.
# `expand` replaces $VARIABLES in a parameter as CircleCI's own orbs do, and evaluates nothing.

PATH="$PARAM_INSTALL_DIR:$HOME/.local/bin:$PATH"
HELPER="${PARAM_BINARY_PATH:-dockercache}"
KEYS="$PARAM_CACHE_DIR.keys"
export DOCKERCACHE_DIR="$PARAM_CACHE_DIR"
if [ -n "$PARAM_STRATEGY" ]; then export DOCKERCACHE_STRATEGY="$PARAM_STRATEGY"; fi

warn() {
  echo "dockercache: warning: $*" >&2
}

# Only wrong usage (2) fails. A missing helper (127), a corrupt archive (3), an engine that is not
# reachable (4), and a file that can't be read or written (5) cost time, not the job.
run_helper() {
  code=0
  "$HELPER" "$@" || code=$?
  if [ "$code" = 0 ] || [ "$code" = 2 ]; then return "$code"; fi
  warn "\`dockercache $1\` ended with $code; the job goes on without it"
}

expand() {
  if command -v circleci >/dev/null 2>&1; then
    circleci env subst "$1"
  else
    printf '%s' "$1"
  fi
}
