#!/bin/sh
# shellcheck disable=SC2154 # follows download.sh
# Downloads the helper, checks it, and only then makes it a program. A server that does not answer
# costs the cache, not the job; a file that is not the expected one ends the job.

temporary=$(mktemp)
trap 'rm -f "$temporary"' EXIT
if ! fetch "$url" "$temporary"; then
  echo "dockercache: warning: $url can't be downloaded; the job goes on without cache" >&2
  exit 0
fi
is_good "$temporary" || fail "$url is not the file that this orb was made for: wrong SHA-256"

place() {
  mkdir -p "$1" 2>/dev/null && [ -w "$1" ] && cp "$temporary" "$1/dockercache.new" &&
    chmod 755 "$1/dockercache.new" && mv -f "$1/dockercache.new" "$1/dockercache"
}

if place "$PARAM_INSTALL_DIR"; then
  path=$PARAM_INSTALL_DIR/dockercache
elif command -v sudo >/dev/null 2>&1 && sudo -n mkdir -p "$PARAM_INSTALL_DIR" &&
  sudo -n install -m 755 "$temporary" "$PARAM_INSTALL_DIR/dockercache"; then
  path=$PARAM_INSTALL_DIR/dockercache
else
  place "$HOME/.local/bin" || fail "neither $PARAM_INSTALL_DIR nor $HOME/.local/bin is writable"
  path=$HOME/.local/bin/dockercache
fi
"$path" --version
echo "installed as $path"
