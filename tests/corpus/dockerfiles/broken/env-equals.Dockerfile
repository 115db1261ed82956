FROM a
ENV x=1 y
