#!/usr/bin/env bash
# How fast `dockercache key` digests a large context, next to sha256sum of the same files:
#
#   examples/digest-benchmark.sh [FILES] [MEBIBYTES]
#
# Makes a context of 100,000 files and 2 GB (by default) in a git repository, with the page cache
# warm, and takes the best of three runs of each:
#
#   dockercache key       for a Dockerfile with `COPY . .`: digests equal to the builder's
#   git ls-files | sha256sum -P   all cores, as scripts make keys
#
# The same for a Dockerfile that copies one file, which must not read the rest. Prints the seconds,
# their ratio, and the peak memory of dockercache. Fails above a ratio of 1.2 or 100 MiB.
#
# Environment:
#   DOCKERCACHE_BIN   use this binary instead of building one
set -euo pipefail
shopt -s inherit_errexit
export LC_ALL=C DOCKER_HOST=unix:///nonexistent

files=${1:-100000}
mebibytes=${2:-2000}
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
binary=${DOCKERCACHE_BIN:-}
if [ -z "$binary" ]; then
  cargo build --quiet --release --manifest-path "$here/../Cargo.toml"
  binary=${CARGO_TARGET_DIR:-$here/../target}/release/dockercache
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
context=$work/context

# Files of all sizes around the mean, 100 to a directory, none of which is another's copy.
size=$((mebibytes * 1024 * 1024 / files))
mkdir -p "$context"
head -c $((mebibytes * 1024 * 1024)) /dev/urandom |
  (cd "$context" && split --bytes="$size" --suffix-length=6 --numeric-suffixes - f)
(
  cd "$context"
  find . -name 'f*' -printf '%f\n' | cut -c 1-5 | sort -u | while read -r prefix; do
    mkdir "d$prefix"
    mv "$prefix"?? "d$prefix/"
  done
  printf 'FROM scratch\nCOPY . .\n' >Dockerfile
  printf 'FROM scratch\nCOPY Dockerfile .\n' >One.Dockerfile
  git init --quiet
  git add .
  printf '.git\n' >.dockerignore
)

# Prints the seconds of the fastest of three runs.
best() {
  local start end best=
  for _ in 1 2 3; do
    start=$(date +%s%N)
    "$@" >/dev/null 2>"$work/messages" || { cat "$work/messages" >&2 && exit 1; }
    end=$((($(date +%s%N) - start) / 1000000))
    if [ -z "$best" ] || [ "$end" -lt "$best" ]; then best=$end; fi
  done
  awk "BEGIN { printf \"%.2f\", $best / 1000 }"
}

with_sha256sum() {
  (cd "$context" && git ls-files -z | xargs -0 -P"$(nproc)" sha256sum)
}

with_key() {
  "$binary" key --file "$context/$1" "$context"
}

find "$context" -type f -print0 | xargs -0 cat >/dev/null
sums=$(best with_sha256sum)
key=$(best with_key Dockerfile)
one=$(best with_key One.Dockerfile)
memory=$(
  /usr/bin/env python3 - "$binary" "$context" <<'PYTHON'
import resource, subprocess, sys
binary, context = sys.argv[1:]
words = [binary, "key", "--file", context + "/Dockerfile", context]
subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
PYTHON
)
ratio=$(awk "BEGIN { printf \"%.2f\", $key / $sums }")
echo "$files files, $mebibytes MiB, $(nproc) cores"
echo "git ls-files | sha256sum       $sums s"
echo "dockercache key, COPY . .      $key s, ratio $ratio, peak memory $memory MiB"
echo "dockercache key, COPY of one   $one s"
awk "BEGIN { exit !($ratio <= 1.2 && $memory < 100) }"
