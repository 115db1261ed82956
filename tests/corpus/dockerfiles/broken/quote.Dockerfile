FROM a
ENV X="y
