ARG A=one
ARG B=${A}-two
ARG C
FROM image:${B} AS x
RUN echo "no globals"
ARG A
ARG B=own-${A}
ARG C
ARG D=d E="e e"
RUN echo "$A $B $C $D $E"
ENV D=from-env
ARG D=again
RUN echo "$D"
FROM x
ARG A
RUN echo "inherits"
