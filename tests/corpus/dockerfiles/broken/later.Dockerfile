FROM a AS x
COPY --from=y / /
FROM b AS y
FROM x
