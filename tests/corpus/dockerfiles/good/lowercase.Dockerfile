from alpine as One
env a b c
env d=e f='g h'
maintainer Somebody <some@body>
run echo $a
arg x=1 y
stopsignal SIGTERM
volume /data "/more"
onbuild add . /src
shell ["/bin/ash", "-c"]
run echo 2
from one
entrypoint exec top -b
