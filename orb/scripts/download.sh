#!/bin/sh
# download URL FILE
if command -v curl >/dev/null 2>&1; then
  curl -fsSL --retry 3 --connect-timeout 20 -o "$2" "$1" && exit
else
  # Debian's busybox crashes on a time limit.
  { wget -q -T 20 -O "$2" "$1" || wget -q -O "$2" "$1"; } && exit
fi
echo "dockercache: warning: failed to download $1; the job goes on without cache" >&2
exit 1
