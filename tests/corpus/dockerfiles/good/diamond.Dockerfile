FROM alpine AS base
FROM base AS left
RUN echo left > /left
FROM base AS right
RUN echo right > /right
FROM busybox AS unneeded
RUN false
FROM base
COPY --from=left /left /
COPY --from=RIGHT /right /
RUN --mount=type=bind,from=left,source=/left,target=/mnt/left --network=none cat /mnt/left
