# Sourced by the scripts beside it: a machine to show something on. Sets
#
#   engine, bases   the scripts that start engines and give them base images
#   generation      the engine's, from the first argument
#   name            of the engine that runs; its client is in the environment
#   dockercache     the binary
#   work            a temporary directory
#
# and what they have in common: steps of a build log, sizes.
# shellcheck shell=bash disable=SC2034 # variables for whoever sources this
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C DOCKER_BUILDKIT=${DOCKER_BUILDKIT:-1} BUILDKIT_PROGRESS=plain

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
self=$(basename "$0")
engine=$here/../tests/engines/engine.sh
bases=$here/bases.sh
generation=${1:-28.5}
case $generation in
  20.10 | 26.1 | 28.5 | 28.5-containerd) ;;
  *)
    echo "usage: $self [20.10|26.1|28.5|28.5-containerd]" >&2
    exit 2
    ;;
esac
name=${self%.sh}-$$

say() {
  printf '\n\033[1m== %s\033[0m\n' "$*" >&2
}

die() {
  echo "$self: $*" >&2
  exit 1
}

# shellcheck source-path=SCRIPTDIR source=../tests/engines/toolchain.sh
. "$here/../tests/engines/toolchain.sh"
if ! command -v jq >/dev/null || ! command -v cc >/dev/null; then
  say "Installing jq and a C compiler"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends jq gcc libc6-dev >/dev/null
fi

work=$(mktemp -d)
clean_up() {
  if [ "${KEEP:-0}" = 1 ]; then
    echo "kept: $work and the engine $name (\`$engine env $name\`, \`$engine stop $name\`)" >&2
    return
  fi
  "$engine" stop "$name" || true
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

say "Installing Docker $generation"
# While it downloads, the compiler works.
"$engine" install "$generation" &
installing=$!
if [ -n "${DOCKERCACHE_BIN:-}" ]; then
  dockercache=$(readlink -f "$DOCKERCACHE_BIN")
else
  say "Building dockercache"
  cargo build --release --locked --manifest-path "$here/../Cargo.toml"
  dockercache=$(cargo metadata --no-deps --format-version 1 --manifest-path "$here/../Cargo.toml" |
    jq -r .target_directory)/release/dockercache
fi
wait "$installing" || die "Docker $generation can't be installed"

say "Starting Docker $generation"
lines=$("$engine" start "$name" "$generation")
set -a
eval "$lines"
set +a
export PATH=$ENGINE_BIN:$PATH DOCKERCACHE_DIR=$work/archive
unset BUILDX_BUILDER DOCKER_CONTEXT DOCKERCACHE_STRATEGY

# The same engine with nothing in it. Only the base images are there again, as on a machine whose
# registry has them.
new_machine() {
  say "A new, empty engine"
  "$engine" wipe "$name"
  [ -z "$(docker images --all --quiet)" ] || die "the engine is not empty"
  "$bases" "$name"
}

# Prints how many steps a build log says were executed and cached.
steps() {
  awk '
    /^#[0-9]+ \[([^]]* )?[0-9]+\/[0-9]+\] / { if ($0 !~ /\] FROM /) step[$1] = 1; next }
    # A step whose layers are fetched from a cache ends with DONE.
    /^#[0-9]+ (CACHED|extracting sha256:|sha256:[0-9a-f]+ .)/ { cached[$1] = 1 }
    /^#[0-9]+ DONE/ { done[$1] = 1 }
    /^Step [0-9]+\/[0-9]+ : / { classic++; if (toupper($4) == "FROM") from++ }
    /^ ---> Using cache/ { hits++ }
    END {
      for (s in step) if (s in cached) hits++; else if (s in done) runs++
      print runs + (classic ? classic - from - hits : 0), hits + 0
    }' "$1"
}

bytes_in() {
  find "$@" -type f -printf '%s\n' | awk '{ sum += $1 } END { printf "%d\n", sum }'
}

human() {
  numfmt --to=iec --suffix=B "$1"
}

# Prints the seconds since a time of EPOCHREALTIME.
since() {
  awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $1 }"
}

builder() {
  [ "$DOCKER_BUILDKIT" = 0 ] && echo "classic builder" || echo BuildKit
}
