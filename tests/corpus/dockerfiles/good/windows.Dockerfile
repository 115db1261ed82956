# escape=`
FROM mcr.microsoft.com/base AS win
RUN echo a `

  # comment
  && echo b
COPY C:\\src dst\\
