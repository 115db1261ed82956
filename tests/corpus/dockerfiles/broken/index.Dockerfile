FROM a
COPY --from=-1 / /
