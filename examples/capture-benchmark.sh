#!/usr/bin/env bash
# What it costs that `dockercache build` captures a build, in one run on one engine:
#
#   sudo examples/capture-benchmark.sh [20.10|26.1|28.5|28.5-containerd]
#
# Compares two jobs, round by round in turn, each on an engine that starts empty:
#
#   captured    dockercache build -t app .         dockercache save
#   repeated    docker buildx build -t app .       dockercache save -t app .
#
# In the second, nothing of ours runs during the build; `save` does all that the capture does, and then
# what `save` does. The jobs build examples/benchmark twice: cold, and after an edit of the last step
# of the stage `build`, with a restored archive. What `restore` takes is counted for neither.
#
# Fails if build and save together take more than 5 % longer when the build is captured.
#
# Environment: DOCKERCACHE_BIN, BASES, KEEP, as for demo.sh. ROUNDS: how often each job runs (3).
# shellcheck source-path=SCRIPTDIR source=machine.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/machine.sh"

rounds=${ROUNDS:-3}
[ "$DOCKER_BUILDKIT" != 0 ] || die "the classic builder needs no capture: its images stay in the engine"
"$bases" "$name"

# Adds what a command takes to the sum with this name.
declare -A sums
timed() {
  local sum=$1 started
  shift
  sync
  started=$EPOCHREALTIME
  "$@" >>"$work/log" 2>&1 || die "failed: $*; see $work/log (KEEP=1)"
  sums[$sum]=$(awk "BEGIN { printf \"%.2f\", ${sums[$sum]:-0} + $EPOCHREALTIME - $started }")
}

# Builds and saves in one of the two ways.
build_and_save() {
  local job=$1 phase=$2 flags
  if [ "$job" = captured ]; then
    "$dockercache" restore >>"$work/log" 2>&1
    timed "$job $phase build" "$dockercache" build --tag app .
    timed "$job $phase save" "$dockercache" save --strict
  else
    flags=$("$dockercache" restore 2>>"$work/log")
    # shellcheck disable=SC2086 # flags
    timed "$job $phase build" docker buildx build $flags --load --tag app .
    timed "$job $phase save" "$dockercache" save --strict --tag app .
  fi
}

job() {
  rm -rf "$DOCKERCACHE_DIR" "$work/project"
  cp -R "$here/benchmark" "$work/project"
  cd "$work/project"
  new_machine
  build_and_save "$1" cold
  new_machine
  sed -i 's/noise 4 40 /noise 5 40 /' Dockerfile
  build_and_save "$1" edited
}

for ((round = 1; round <= rounds; round++)); do
  order=(captured repeated)
  ((round % 2)) || order=(repeated captured)
  for which in "${order[@]}"; do
    say "Round $round of $rounds: $which"
    job "$which"
  done
done

mean() {
  awk "BEGIN { printf \"%.2f\", ${sums[$1]} / $rounds }"
}

sum() {
  awk "BEGIN { printf \"%.2f\", $(mean "$1 build") + $(mean "$1 save") }"
}

ratio() {
  awk "BEGIN { printf \"%.2f\", $1 / $2 }"
}

printf '\nDocker %s, on %s cores: seconds, mean of %s rounds\n\n' "$generation" "$(nproc)" "$rounds"
format='%-24s %10s %10s %8s\n'
# shellcheck disable=SC2059 # one format for all rows
row() { printf "$format" "$@"; }
row "" captured repeated ratio
broken=0
for phase in cold edited; do
  for verb in build save; do
    row "$phase: $verb" "$(mean "captured $phase $verb")" "$(mean "repeated $phase $verb")" ""
  done
  ours=$(sum "captured $phase")
  theirs=$(sum "repeated $phase")
  row "$phase: build and save" "$ours" "$theirs" "$(ratio "$ours" "$theirs")"
  if awk "BEGIN { exit !($ours > 1.05 * $theirs) }"; then
    echo "broken: $phase: a build that is captured and its save take more than 5 % longer" >&2
    broken=1
  fi
done
exit "$broken"
