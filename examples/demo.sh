#!/usr/bin/env bash
# The whole job on a real project, on a machine that need not have Docker:
#
#   sudo examples/demo.sh [20.10|26.1|28.5|28.5-containerd]
#
# Installs an engine (28.5 by default; see tests/engines/engine.sh), builds dockercache, and builds
# examples/wordcount cold, then again on an engine that is empty, then once more on an empty engine
# after an edit. Only the archive is carried over. A table at the end says what it took.
#
# The columns:
#   executed, cached    the Dockerfile's steps, from the builder's own log (FROM is no step)
#   read                bytes of the archive that the builder fetched: the sum of the sizes of the
#                       blobs that its log names as pulled, each counted once. A builder that
#                       loads images instead (DOCKER_BUILDKIT=0) names none: `-`
#   archive             bytes of all files in the archive directory
#   live, dead          blobs that the last build can still use, and others
#
# Environment:
#   DOCKERCACHE_BIN     use this binary instead of building one
#   DOCKER_BUILDKIT     0 for the classic builder (1 by default, on Docker 20.10 too)
#   BASES               pull or packages: where the base images come from (see examples/bases.sh)
#   KEEP                1 leaves the engine, the archive and the logs behind
# shellcheck source-path=SCRIPTDIR source=machine.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/machine.sh"

say "Getting the project's sources and base images"
"$here/wordcount/fetch-sources.sh"
"$bases" "$name"

cp -R "$here/wordcount" "$work/wordcount"
cd "$work/wordcount"

# ----------------------------------------------------------------------------------- measurements

# Prints how many bytes of the archive a build log says were fetched.
bytes_read() {
  local digests total=0 size
  digests=$(sed -n 's/^#[0-9]* \(pulling \)\{0,1\}sha256:\([0-9a-f]\{64\}\) .*/\2/p' "$1" | sort -u)
  if grep -q '^Step [0-9]*/[0-9]* : ' "$1"; then
    echo -
    return
  fi
  for digest in $digests; do
    # What isn't in the archive came from elsewhere.
    size=$(stat -c %s "$DOCKERCACHE_DIR/blobs/sha256/$digest" 2>/dev/null || echo 0)
    total=$((total + size))
  done
  human "$total"
}

# Prints how many blobs of the archive are live and dead.
blobs() {
  "$dockercache" inspect --format json | jq -r '"\(.live.blobs) \(.dead.blobs)"'
}

# Runs a command of the phase, times it, and keeps its log and a row of the table.
rows=()
phase() {
  local title=$1 verb=$2 started=$EPOCHREALTIME seconds log=$work/log.${#rows[@]} executed=- \
    cached=- read=- size=- live=- dead=-
  shift 2
  say "$title: dockercache $verb $*"
  "$dockercache" "$verb" "$@" 2>&1 | tee "$log" >&2
  seconds=$(since "$started")
  case $verb in
    build)
      read -r executed cached < <(steps "$log")
      read=$(bytes_read "$log")
      ;;
    save)
      size=$(human "$(bytes_in "$DOCKERCACHE_DIR")")
      read -r live dead < <(blobs)
      ;;
  esac
  rows+=("$title|$seconds|$executed|$cached|$read|$size|$live|$dead")
}

# ------------------------------------------------------------------------------------------ run

phase "cold build" build --tag wordcount .
phase "save" save
new_machine
phase "restore" restore
phase "warm build, nothing changed" build --tag wordcount .
phase "save again" save

say "An edit of src/main.c"
sed -i 's/%zu bytes, compressed %zu/%zu bytes, %zu when compressed/' src/main.c
diff "$here/wordcount/src/main.c" src/main.c >&2 && die "the edit changed nothing"
new_machine
phase "restore" restore
phase "warm build after an edit" build --tag wordcount .
phase "save again" save

say "The program that was built, reading its own source"
docker run --interactive --rm wordcount 3 <src/main.c

printf '\nDocker %s, %s\n\n' "$generation" "$(builder)"
format='%-28s %8s %9s %7s %7s %8s %5s %5s\n'
# shellcheck disable=SC2059 # one format for all rows
printf "$format" phase seconds executed cached read archive live dead
for row in "${rows[@]}"; do
  IFS='|' read -ra cells <<<"$row"
  # shellcheck disable=SC2059
  printf "$format" "${cells[@]}"
done
