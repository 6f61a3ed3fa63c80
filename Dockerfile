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
# The embedded store's default folder, should it be used.
RUN mkdir data && chown node:node data
USER node
ENTRYPOINT ["node", "dist/cli/posthorn.js"]
CMD ["start"]
