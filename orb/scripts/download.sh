#!/bin/sh
# shellcheck disable=SC2034 # install.sh follows
# Looks for the helper, and downloads it into a temporary file if it isn't there. "There" is the
# very file whose SHA-256 stands in the orb.

fail() {
  echo "dockercache: error: $*" >&2
  exit 1
}

fetch() {
  if command -v curl >/dev/null 2>&1; then
    curl -fsSL --retry 3 --connect-timeout 20 -o "$2" "$1"
  else
    # Debian's busybox crashes on a time limit.
    wget -q -T 20 -O "$2" "$1" || wget -q -O "$2" "$1"
  fi
}

is_good() {
  printf '%s  %s\n' "$sum" "$1" | sha256sum -c - >/dev/null 2>&1
}

if [ -n "$PARAM_BINARY_PATH" ]; then
  "$PARAM_BINARY_PATH" --version || fail "binary_path: \`$PARAM_BINARY_PATH\` does not run"
  exit 0
fi
case "$(uname -s) $(uname -m)" in
  "Linux x86_64" | "Linux amd64") file=dockercache-linux-amd64 ;;
  "Linux aarch64" | "Linux arm64") file=dockercache-linux-arm64 ;;
  *) fail "there is no helper for $(uname -s) on $(uname -m): build one, and set binary_path" ;;
esac
sum=${PARAM_SHA256:-$(printf '%s\n' "$CHECKSUMS" | sed -n "s/^\([0-9a-f]*\)  $file\$/\1/p")}
[ "${#sum}" = 64 ] || fail "no SHA-256 for $file $PARAM_VERSION: set the parameter sha256"
PATH="$PARAM_INSTALL_DIR:$HOME/.local/bin:$PATH"
if found=$(command -v dockercache) && is_good "$found"; then
  echo "version $PARAM_VERSION is here already: $found"
  exit 0
fi
url="${PARAM_BASE_URL%/}/v$PARAM_VERSION/$file"
