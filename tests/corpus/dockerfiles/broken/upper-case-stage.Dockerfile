FROM a AS Builder
FROM Builder
