#!/usr/bin/env bash
# Compares a registry as dockercache's store with what people do by hand, in one run, with one
# registry on loopback:
#
#   sudo examples/store-benchmark.sh [28.5|28.5-containerd]
#
# With the graph driver (28.5) the other is recipe D: build and push every stage with inline cache,
# pull them all before the next build, and name each with `--cache-from`. With the containerd image
# store it is BuildKit's own `type=registry,mode=max`, which needs that store.
#
# Bytes are what went over the loopback interface, on which nothing else speaks; both directions
# and the protocol's own count. Seconds of a build include what it reads of its cache.
#
# The script fails when dockercache executes a step that it should not, or moves more than the other by
# 64 KiB and half a percent: what an export to a registry by BuildKit costs more with us is an index and
# its names, and the protocol's own share differs from run to run. The other's steps are only shown:
# recipe D does not always hit.
#
# Environment: DOCKERCACHE_BIN, KEEP, as for demo.sh.
# shellcheck disable=SC2317,SC2329 # functions are called by name
# shellcheck source-path=SCRIPTDIR source=machine.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/machine.sh"

case $generation in
  28.5) other="recipe D" ;;
  28.5-containerd) other="BuildKit's own" ;;
  *) die "only 28.5 and 28.5-containerd: there is nothing to compare with elsewhere" ;;
esac

registry_program=$("$engine" registry)
port=$((20000 + $$ % 20000))
registry=127.0.0.1:$port
printf 'version: 0.1\nlog: {level: error}\nhttp: {addr: "%s"}\nstorage: {filesystem: {rootdirectory: "%s"}}\n' \
  "$registry" "$work/registry" >"$work/registry.yml"
"$registry_program" serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
registry_process=$!
trap 'kill "$registry_process" 2>/dev/null; clean_up' EXIT
export DOCKERCACHE_STORE=registry://$registry/ours DOCKERCACHE_PROJECT=benchmark

mkdir "$work/project"
cd "$work/project"
echo "int main;" >main.txt
# Layers that compress by half, as programs do; the same for every run.
cat >Dockerfile <<'DOCKERFILE'
FROM busybox:1 AS toolchain
RUN i=0; while [ $i -lt 60 ]; do head -c 1000000 /dev/urandom; head -c 1000000 /dev/zero; i=$((i + 1)); done > /toolchain

FROM toolchain AS dependencies
RUN i=0; while [ $i -lt 20 ]; do head -c 1000000 /dev/urandom; head -c 1000000 /dev/zero; i=$((i + 1)); done > /dependencies

FROM dependencies AS build
COPY main.txt .
RUN head -c 3000000 /dependencies > /program; cat main.txt >> /program

FROM busybox:1
COPY --from=build /program /program
DOCKERFILE
stages=(toolchain dependencies build final)

# An engine with nothing but the base image, and no directory from before.
empty_machine() {
  "$engine" wipe "$name"
  "$engine" base-image "$name" busybox:1
  rm -rf "$DOCKERCACHE_DIR"
}

on_loopback() {
  awk '$1 == "lo:" { print $10 }' /proc/net/dev
}

# measure KEY COMMAND...: runs it, and notes its seconds, the bytes on loopback, and, of a build, the
# steps that were executed.
declare -A seconds bytes executed
measure() {
  local key=$1 started before
  shift
  sync
  before=$(on_loopback)
  started=$EPOCHREALTIME
  "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; die "failed: $*"; }
  seconds[$key]=$(since "$started")
  bytes[$key]=$(($(on_loopback) - before))
  executed[$key]=-
  if [[ $1 = *_build ]]; then read -r executed["$key"] _ < <(steps "$work/log"); fi
}

ours_build() { "$dockercache" build --tag app .; }
ours_save() { "$dockercache" save; }

d_build() {
  local from=() stage
  for stage in "${stages[@]}"; do
    if docker pull --quiet "$registry/d:$stage"; then from+=(--cache-from "$registry/d:$stage"); fi
  done
  docker build "${from[@]}" --tag app .
}
d_save() {
  local stage
  for stage in "${stages[@]}"; do
    local target=()
    [ "$stage" = final ] || target=(--target "$stage")
    docker buildx build --quiet "${target[@]}" --cache-to type=inline --tag "$registry/d:$stage" .
    docker push --quiet "$registry/d:$stage"
  done
}

b_cache=type=registry,ref=$registry/b:cache
b_build() { docker buildx build --cache-from "$b_cache" --tag app .; }
b_save() {
  docker buildx build --cache-from "$b_cache" --cache-to "$b_cache,mode=max,image-manifest=true" \
    --output type=cacheonly .
}

if [ "$generation" = 28.5 ]; then theirs=d; else theirs=b; fi
for who in ours "$theirs"; do
  say "$([ "$who" = ours ] && echo dockercache || echo "$other"): first build and save"
  echo "int main;" >main.txt
  empty_machine
  "${who}_build" >"$work/log" 2>&1 || { cat "$work/log" >&2; die "the build failed"; }
  measure "$who first" "${who}_save"
  empty_machine
  measure "$who restore" "${who}_build"
  measure "$who again" "${who}_save"
  echo "int main = 1;" >main.txt
  empty_machine
  measure "$who edited" "${who}_build"
  measure "$who change" "${who}_save"
done

printf '\nDocker %s, %s, a registry on loopback\n\n' "$generation" "$(builder)"
format='%-34s %9s %9s %9s %9s %9s %9s\n'
# shellcheck disable=SC2059 # one format for all rows
row() { printf "$format" "$@"; }
row "" dockercache "" "" "$other" "" ""
row "" bytes seconds executed bytes seconds executed
broken=0
for phase in "first:save, the first:-" "restore:build on a new machine, no change:0" \
  "again:save again, no change:-" "edited:build on a new machine, an edit:3" "change:save after the edit:-"; do
  IFS=: read -r key title expected <<<"$phase"
  figures=()
  for who in ours "$theirs"; do
    figures+=("$(human "${bytes["$who $key"]}")" "${seconds["$who $key"]}" "${executed["$who $key"]}")
  done
  row "$title" "${figures[@]}"
  if [ "${bytes["ours $key"]}" -gt $((bytes["$theirs $key"] * 201 / 200 + 65536)) ]; then
    echo "broken: more bytes than $other: $title" >&2
    broken=1
  fi
  if [ "${executed["ours $key"]}" != "$expected" ]; then
    echo "broken: ${executed["ours $key"]} steps were executed, expected $expected: $title" >&2
    broken=1
  fi
done
exit "$broken"
