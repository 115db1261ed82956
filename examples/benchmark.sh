#!/usr/bin/env bash
# Compares dockercache with recipe B of 2018 on one project, in one run on one engine:
#
#   sudo examples/benchmark.sh [20.10|26.1|28.5]
#
# Recipe B is `docker save $(docker images -aq) | gzip` after the build, and `gunzip | docker load`
# before the next one. As it was written it helps the classic builder only (DOCKER_BUILDKIT=0), and
# since the fix of CVE-2024-24557 not even that without `--cache-from` for every stage. BuildKit
# ignores loaded images that carry no inline cache. So that there is something to compare with,
# recipe B gets this help, and is not charged for it:
#
#   classic builder   `--cache-from` with the last image of every stage, on engines with the fix
#   BuildKit          an image of every stage with inline cache, built and tagged beforehand, saved
#                     by tag (`docker save IDS` drops tags), and `--cache-from` with each of them
#
# The project, examples/benchmark, has more than 2 GB of layers. The base images are on the engine
# before each restore, as pulled from a registry; nobody is charged for them.
#
# With BuildKit the script fails when one of these does not hold:
#
#   save                at least 2 times faster
#   restore and build   at least 3 times faster, with every step cached
#   archive             no larger
#   memory              of dockercache and any program that it starts: below 100 MiB at all times
#
# With the classic builder, which must load every image before it builds, only the last three do,
# and restore and build must be no slower.
#
# Environment: DOCKERCACHE_BIN, DOCKER_BUILDKIT, BASES, KEEP, as for demo.sh.
# shellcheck source-path=SCRIPTDIR source=machine.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/machine.sh"

[ "$generation" != 28.5-containerd ] ||
  die "recipe B never hits on the containerd image store: there is nothing to compare with"
if [ ! -x /usr/bin/time ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends time >/dev/null
fi

"$bases" "$name"
cp -R "$here/benchmark" "$work/project"
cd "$work/project"

# Runs dockercache with a log in $work/VERB.log; adds to $seconds, and to the peaks of memory.
seconds=0
declare -A peak
ours() {
  local verb=$1 started=$EPOCHREALTIME
  # The largest resident set of the process, or of one that it started and waited for.
  /usr/bin/time --quiet --format %M --output "$work/peak" \
    "$dockercache" "$@" 2>&1 | tee "$work/$verb.log" >&2
  add "$started"
  peak[$verb]=$(cat "$work/peak")
}

add() {
  seconds=$(awk "BEGIN { printf \"%.1f\", $seconds + $EPOCHREALTIME - $1 }")
}

# What was written before is no business of what is measured next.
settle() {
  sync
  seconds=0
}

# ------------------------------------------------------------------------------ build, and save

say "Building $(builder) cold"
ours build --tag benchmark .
read -r _ hits < <(steps "$work/build.log")
[ "$hits" = 0 ] || die "the cold build was not cold"
cp "$work/build.log" "$work/cold.log"

say "dockercache: save"
settle
ours save
our_save=$seconds
our_archive=$(bytes_in "$DOCKERCACHE_DIR")
unpacked=$("$dockercache" inspect --format json |
  jq '[.stages[].layers[] | {key: .diff_id, value: .unpacked_bytes}] | from_entries | add')

from=()
if [ "$DOCKER_BUILDKIT" = 0 ]; then
  images=$(docker images --all --quiet)
  if [ "$generation" != 20.10 ]; then
    # The image above each `FROM`, and the very last one.
    while read -r id; do from+=(--cache-from "$id"); done < <(awk '
      /^Step / { if (toupper($4) == "FROM" && id) print id }
      /^ ---> [0-9a-f]+$/ { id = $2 }
      END { print id }' "$work/cold.log")
  fi
else
  for stage in toolchain dependencies build; do
    docker buildx build --quiet --target "$stage" --cache-to type=inline --tag "b-$stage:1" . >/dev/null
    from+=(--cache-from "b-$stage:1")
  done
  docker buildx build --quiet --cache-to type=inline --tag b-final:1 . >/dev/null
  from+=(--cache-from b-final:1)
  images=$(docker images --format '{{.Repository}}:{{.Tag}}')
fi

say "Recipe B: docker save | gzip"
settle
started=$EPOCHREALTIME
# shellcheck disable=SC2086 # a list
docker save $images | gzip >"$work/b.tar.gz"
add "$started"
b_save=$seconds
b_archive=$(stat -c %s "$work/b.tar.gz")

# --------------------------------------------------------------------------- restore, and build

# With several images named by `--cache-from`, BuildKit sometimes misses some of their steps: it gets
# up to three attempts. If it still runs steps then, the table shows them.
b_runs=-1
for _ in 1 2 3; do
  [ "$b_runs" != 0 ] || break
  new_machine
  say "Recipe B: gunzip | docker load, and the build"
  settle
  started=$EPOCHREALTIME
  gunzip <"$work/b.tar.gz" | docker load >&2
  docker build "${from[@]}" --tag benchmark . 2>&1 | tee "$work/b.log" >&2
  add "$started"
  b_restore=$seconds
  read -r b_runs b_hits < <(steps "$work/b.log")
done

new_machine
say "dockercache: restore, and the build"
settle
ours restore
ours build --tag benchmark .
our_restore=$seconds
read -r our_runs our_hits < <(steps "$work/build.log")

# -------------------------------------------------------------------------------------- results

mib() {
  awk "BEGIN { printf \"%.0f MiB\", $1 / 1024 }"
}

ratio() {
  awk "BEGIN { printf \"%.1f\", $1 / $2 }"
}

printf '\nDocker %s, %s: %s of layers, on %s cores\n\n' \
  "$generation" "$(builder)" "$(human "$unpacked")" "$(nproc)"
format='%-28s %12s %12s %8s\n'
# shellcheck disable=SC2059 # one format for all rows
row() { printf "$format" "$@"; }
row "" dockercache "recipe B" ratio
row "save, seconds" "$our_save" "$b_save" "$(ratio "$b_save" "$our_save")"
row "archive" "$(human "$our_archive")" "$(human "$b_archive")" "$(ratio "$b_archive" "$our_archive")"
row "restore and build, seconds" "$our_restore" "$b_restore" "$(ratio "$b_restore" "$our_restore")"
row "steps executed, cached" "$our_runs, $our_hits" "$b_runs, $b_hits" ""
row "memory, save" "$(mib "${peak[save]}")" "" ""
row "memory, restore" "$(mib "${peak[restore]}")" "" ""
row "memory, build" "$(mib "${peak[build]}")" "" ""

broken=0
promise() {
  awk "BEGIN { exit !($2) }" && return
  echo "broken: $1" >&2
  broken=1
}
echo
promise "the project has less than 2 GB of layers" "$unpacked >= 2e9"
promise "dockercache executed steps of an unchanged build" "$our_runs == 0 && $our_hits > 0"
if [ "$DOCKER_BUILDKIT" = 0 ]; then
  promise "restore and build is slower" "$our_restore <= $b_restore"
else
  promise "restore and build is less than 3 times faster" "$b_restore >= 3 * $our_restore"
fi
promise "save is less than 2 times faster" "$b_save >= 2 * $our_save"
promise "the archive is larger" "$our_archive <= $b_archive"
for verb in save restore build; do
  promise "$verb needs 100 MiB of memory or more" "${peak[$verb]} < 100 * 1024"
done
exit "$broken"
