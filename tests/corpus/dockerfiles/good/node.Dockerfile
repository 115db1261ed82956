# syntax=docker/dockerfile:1
# check=skip=JSONArgsRecommended

ARG NODE_VERSION=20
ARG BASE=node:${NODE_VERSION}-slim

FROM ${BASE} AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
RUN --mount=type=cache,target=/root/.npm \
    # the comment stays out
    npm ci --omit=dev

FROM dependencies AS build
ARG COMMIT
ENV COMMIT=${COMMIT:-unknown} NODE_ENV="production"
COPY . .
RUN npm run build

FROM --platform=$TARGETPLATFORM gcr.io/distroless/nodejs${NODE_VERSION:+20}
LABEL org.opencontainers.image.title="App" version=1
COPY --from=dependencies --chown=65532:65532 /app/node_modules /app/node_modules
COPY --from=1 --link /app/dist /app/dist
USER 65532
EXPOSE 3000/tcp
HEALTHCHECK --interval=30s CMD ["node", "health.js"]
CMD ["app/dist/main.js"]
