FROM debian:bookworm AS base
RUN <<EOF
set -e
apt-get update
FROM is only text here
EOF
RUN <<-'SCRIPT'
	#!/usr/bin/env python3
	print("$HOME")
	SCRIPT
ENV NAME=world
COPY <<one.txt <<'two.txt' /etc/
hello $NAME
one.txt
hello $NAME
two.txt
RUN python3 <<PY && cat <<-END > /x
print(1)
PY
	end
	END
ONBUILD RUN <<T
triggered
T
ONBUILD COPY <<-U /u
	chomped $NAME
	U
FROM base
