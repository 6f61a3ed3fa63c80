// GET /docs: openapi.json as a page to read and try. All that it loads comes from this server.
//
// Swagger UI out of @fastify/swagger-ui, whose copy has no install script that reports home, and
// which works under a policy without inline script. Its files are served by name, not by the
// plugin: that adds seven routes, a second copy of openapi.json and a page with inline styles.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { FastifyInstance, FastifyReply } from 'fastify'
import { z } from 'zod'
import { AppError } from '../src/errors.ts'
import { nothing } from './schemas.ts'

/** Two headers of our own instead of @fastify/helmet: no other route answers with HTML. */
export const PAGE_HEADERS = {
  // data: for the icons in Swagger UI's stylesheet. No form, no frame, no other origin.
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
}

const PAGE = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Posthorn API</title>
    <link rel="stylesheet" href="docs/swagger-ui.css">
    <link rel="icon" href="docs/favicon.png" type="image/png">
  </head>
  <body>
    <noscript>This page needs JavaScript; <a href="openapi.json">openapi.json</a> says the same.
    </noscript>
    <div id="reference"></div>
    <script src="docs/swagger-ui-bundle.js"></script>
    <script src="docs/start.js"></script>
  </body>
</html>
`

// validatorUrl null: else a badge would send the address of this server to swagger.io.
const START_SCRIPT = `SwaggerUIBundle({
  url: 'openapi.json',
  dom_id: '#reference',
  deepLinking: true,
  validatorUrl: null,
  docExpansion: 'list',
  defaultModelsExpandDepth: -1,
  presets: [SwaggerUIBundle.presets.apis],
  layout: 'BaseLayout',
})
`

const ONE_HOUR = 'public, max-age=3600'

interface Asset {
  type: string
  /** Of the package's folder `static`, or the text itself. */
  from: { file: string } | { text: string }
}

const ASSETS: Record<string, Asset> = {
  'swagger-ui.css': { type: 'text/css; charset=utf-8', from: { file: 'swagger-ui.css' } },
  'swagger-ui-bundle.js': {
    type: 'text/javascript; charset=utf-8',
    from: { file: 'swagger-ui-bundle.js' },
  },
  'favicon.png': { type: 'image/png', from: { file: 'favicon-32x32.png' } },
  'start.js': { type: 'text/javascript; charset=utf-8', from: { text: START_SCRIPT } },
}

export function registerReferencePage(app: FastifyInstance): void {
  const open = { open: true }
  const read = createAssetReader()

  app.get(
    '/docs',
    {
      config: open,
      schema: {
        summary: 'This API as a page to read and try',
        querystring: nothing,
        response: { 200: fileAnswer('the page', 'text/html') },
      },
    },
    async (_request, reply) =>
      reply.headers(PAGE_HEADERS).type('text/html; charset=utf-8').send(PAGE),
  )

  app.get<{ Params: { file: string } }>(
    '/docs/:file',
    {
      config: open,
      schema: {
        summary: 'What the page is made of',
        params: z.object({ file: z.string() }),
        querystring: nothing,
        response: { 200: fileAnswer('the file', '*/*') },
      },
    },
    async (request, reply) => {
      const { file } = request.params
      const asset = Object.hasOwn(ASSETS, file) ? ASSETS[file] : undefined
      if (asset === undefined) throw new AppError('not_found', 'the page has no such file')
      const { bytes, etag } = await read(file, asset)
      return sendAsset(reply, asset.type, bytes, etag, request.headers['if-none-match'])
    },
  )
}

function fileAnswer(description: string, type: string) {
  return { description, content: { [type]: { schema: z.string() } } }
}

function sendAsset(
  reply: FastifyReply,
  type: string,
  bytes: Buffer,
  etag: string,
  known: string | undefined,
): FastifyReply {
  reply.headers({ ...PAGE_HEADERS, etag, 'cache-control': ONE_HOUR })
  return known === etag ? reply.code(304).send() : reply.type(type).send(bytes)
}

/** Reads each file once, when it is first asked for: most processes are never asked. */
function createAssetReader() {
  const known = new Map<string, Promise<{ bytes: Buffer; etag: string }>>()
  const folder = join(dirname(fileURLToPath(import.meta.resolve('@fastify/swagger-ui'))), 'static')

  async function load({ from }: Asset) {
    const bytes = 'text' in from ? Buffer.from(from.text) : await readFile(join(folder, from.file))
    const hash = createHash('sha256').update(bytes).digest('base64url')
    return { bytes, etag: `"${hash.slice(0, 22)}"` }
  }

  return (name: string, asset: Asset) => {
    const loading = known.get(name) ?? load(asset)
    known.set(name, loading)
    return loading
  }
}
