#!/bin/sh
# `circleci env subst TEXT`, the one command of CircleCI's agent that the orb uses: replaces
# $NAME and ${NAME} by the values of variables, and nothing else.
[ "$1 $2" = "env subst" ] || exit 1
printf '%s\n' "$3" | awk '{
  line = $0
  while (match(line, /\$([A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})/)) {
    name = substr(line, RSTART + 1, RLENGTH - 1)
    gsub(/[{}]/, "", name)
    printf "%s%s", substr(line, 1, RSTART - 1), ENVIRON[name]
    line = substr(line, RSTART + RLENGTH)
  }
  print line
}'
