#!/usr/bin/env bash
# Compares a registry as dockercache's store with what people do by hand, in one run, with one
# registry on this machine:
#
#   sudo examples/store-benchmark.sh [28.5|28.5-containerd]
#
# With the graph driver (28.5) the other is recipe D: build and push every stage with inline cache,
# pull them all before the next build, and name each with `--cache-from`. With the containerd image
# store it is BuildKit's own `type=registry,mode=max`, which needs that store.
#
# Bytes are what went to the registry and came from it, with the protocol's own. Seconds of a build
# include what it reads of its cache.
#
# Figures are medians of several rounds.
#
# The script fails when dockercache executes a step that it should not, or moves more than the other by
# 64 KiB and half a percent: what an export to a registry by BuildKit costs more with us is an index and
# its names, and the protocol's own share differs from run to run. It also fails when dockercache is
# slower by a tenth and a tenth of a second, which is what a machine's noise makes of it. The other's steps
# are only shown: recipe D does not always hit.
#
# Environment: ROUNDS (3); DOCKERCACHE_BIN, KEEP, as for demo.sh.
# shellcheck disable=SC2317,SC2329 # functions are called by name
# shellcheck source-path=SCRIPTDIR source=machine.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/machine.sh"

case $generation in
  28.5) other="recipe D" ;;
  28.5-containerd) other="BuildKit's own" ;;
  *) die "only 28.5 and 28.5-containerd: there is nothing to compare with elsewhere" ;;
esac

rounds=${ROUNDS:-3}
if ! command -v socat >/dev/null || ! command -v ip >/dev/null; then
  say "Installing socat and iproute2"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends socat iproute2 >/dev/null
fi
# The registry is at the other end of a cable of its own, on which nothing else speaks. Engines do
# without TLS on loopback only, so it is reached from there.
cable=dcstore$(($$ % 1000))
end_of_cable=198.18.0.2
ip netns add "$name"
trap 'kill $(jobs -p) 2>/dev/null; ip netns delete "$name"; clean_up' EXIT
ip link add "$cable" type veth peer name "$cable" netns "$name"
ip address add 198.18.0.1/30 dev "$cable"
ip -n "$name" address add "$end_of_cable/30" dev "$cable"
ip link set "$cable" up
ip -n "$name" link set "$cable" up
registry_program=$("$engine" registry)
printf 'version: 0.1\nlog: {level: error}\nhttp: {addr: "%s"}\nstorage: {filesystem: {rootdirectory: "%s"}}\n' \
  "$end_of_cable:5000" "$work/registry" >"$work/registry.yml"
ip netns exec "$name" "$registry_program" serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
port=$((20000 + $$ % 10000))
registry=127.0.0.1:$port
socat -b 262144 "TCP-LISTEN:$port,bind=127.0.0.1,reuseaddr,fork,nodelay" "TCP:$end_of_cable:5000,nodelay" &
export DOCKERCACHE_PROJECT=benchmark

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

on_cable() {
  awk -v cable="$cable:" '$1 == cable { print $2 + $10 }' /proc/net/dev
}

# measure KEY COMMAND...: runs it, and notes its seconds, the bytes on the cable, and, of a build, the
# steps that were executed.
declare -A seconds bytes executed
measure() {
  local key=$1 started before
  shift
  sync
  before=$(on_cable)
  started=$EPOCHREALTIME
  "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; die "failed: $*"; }
  seconds[$key]+=" $(since "$started")"
  bytes[$key]+=" $(($(on_cable) - before))"
  local ran=-
  if [[ $1 = *_build ]]; then read -r ran _ < <(steps "$work/log"); fi
  executed[$key]+=" $ran"
}

# figure MEASURED KEY: prints the median of it.
figure() {
  local -n measured=$1
  # shellcheck disable=SC2086 # words
  printf '%s\n' ${measured["$2"]} | sort -n | sed -n "$(((rounds + 1) / 2))p"
}

ours_build() { "$dockercache" build --tag app .; }
ours_save() { "$dockercache" save; }

d_build() {
  local from=() stage
  for stage in "${stages[@]}"; do
    if docker pull --quiet "$registry/$repository:$stage"; then
      from+=(--cache-from "$registry/$repository:$stage")
    fi
  done
  docker build "${from[@]}" --tag app .
}
d_save() {
  local stage
  for stage in "${stages[@]}"; do
    local target=()
    [ "$stage" = final ] || target=(--target "$stage")
    docker buildx build --quiet "${target[@]}" --cache-to type=inline --tag "$registry/$repository:$stage" .
    docker push --quiet "$registry/$repository:$stage"
  done
}

b_build() {
  docker buildx build --cache-from "type=registry,ref=$registry/$repository:cache" --tag app .
}
b_save() {
  local cache=type=registry,ref=$registry/$repository:cache
  docker buildx build --cache-from "$cache" --cache-to "$cache,mode=max,image-manifest=true" \
    --output type=cacheonly .
}

if [ "$generation" = 28.5 ]; then theirs=d; else theirs=b; fi
for round in $(seq "$rounds"); do
  for who in ours "$theirs"; do
    say "$([ "$who" = ours ] && echo dockercache || echo "$other"), round $round of $rounds"
    repository=$who-$round
    export DOCKERCACHE_STORE=registry://$registry/$repository
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
done

printf '\nDocker %s, %s, a registry on the same machine, medians of %s\n\n' "$generation" "$(builder)" "$rounds"
format='%-34s %9s %9s %9s %9s %9s %9s\n'
# shellcheck disable=SC2059 # one format for all rows
row() { printf "$format" "$@"; }
row "" dockercache "" "" "$other" "" ""
row "" bytes seconds executed bytes seconds executed
broken=0
declare -A figures
for phase in "first:save, the first:-" "restore:build on a new machine, no change:0" \
  "again:save again, no change:-" "edited:build on a new machine, an edit:3" "change:save after the edit:-"; do
  IFS=: read -r key title expected <<<"$phase"
  for who in ours "$theirs"; do
    figures["$who"]="$(figure bytes "$who $key") $(figure seconds "$who $key") $(figure executed "$who $key")"
  done
  read -r our_bytes our_seconds our_steps <<<"${figures[ours]}"
  read -r their_bytes their_seconds their_steps <<<"${figures[$theirs]}"
  row "$title" "$(human "$our_bytes")" "$our_seconds" "$our_steps" \
    "$(human "$their_bytes")" "$their_seconds" "$their_steps"
  if [ "$our_bytes" -gt $((their_bytes * 201 / 200 + 65536)) ]; then
    echo "broken: more bytes than $other: $title" >&2
    broken=1
  fi
  if awk "BEGIN { exit !($our_seconds > $their_seconds * 1.1 + 0.1) }"; then
    echo "broken: slower than $other: $title" >&2
    broken=1
  fi
  for ran in ${executed["ours $key"]}; do
    if [ "$ran" != "$expected" ]; then
      echo "broken: $ran steps were executed, expected $expected: $title" >&2
      broken=1
    fi
  done
done
exit "$broken"
