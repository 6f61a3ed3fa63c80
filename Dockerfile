# Build: types checked and stripped, then production dependencies alone.
FROM node:24-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci
COPY tsconfig.json tsconfig.build.json ./
COPY src src
COPY routes routes
COPY workers workers
COPY cli cli
COPY dashboard dashboard
RUN npm run build && npm prune --omit=dev

FROM node:24-slim
ENV NODE_ENV=production
WORKDIR /app
COPY --from=build /app/node_modules node_modules
COPY --from=build /app/dist dist
COPY --from=build /app/dashboard dashboard
COPY package.json ./
# The folder of the embedded store, should it be used.
RUN mkdir data && chown node:node data
VOLUME /app/data
USER node
# Within a container loopback is reached by nobody. Without API_KEYS the API refuses to start so.
ENV HOST=0.0.0.0
EXPOSE 8080
# Of the API. For a container that runs a worker alone: --no-healthcheck.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT || 8080}/health/ready`).then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "dist/cli/posthorn.js"]
CMD ["start"]
