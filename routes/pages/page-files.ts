// Serves a page and its files by name, to everyone, under a strict content security policy.
import { createHash } from 'node:crypto'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import type { FastifyInstance, FastifyReply } from 'fastify'
import { z } from 'zod'
import { AppError } from '../../src/errors.ts'
import { noQuery } from '../http/route-schema.ts'

/** Our own headers instead of @fastify/helmet: no other route responds with HTML. */
const PAGE_HEADERS = {
  // `data:` is for the icons in stylesheets. The policy allows no form, frame, other origin or
  // inline script.
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
}

export const SCRIPT_TYPE = 'text/javascript; charset=utf-8'
export const STYLE_TYPE = 'text/css; charset=utf-8'
const HTML_TYPE = 'text/html; charset=utf-8'
/** Compressing a smaller file would save no packet. */
const MIN_COMPRESSED_BYTES = 1_000

export interface PageFile {
  type: string
  load(): Promise<Uint8Array | string>
}

export interface Page {
  /** The path of the page; its files are below it. */
  path: '/docs' | '/dashboard'
  summary: string
  html: string
  files: Record<string, PageFile>
  /** How long a browser may use the files without asking for them again. */
  cacheControl: string
}

interface Loaded {
  type: string
  bytes: Uint8Array
  compressed: Uint8Array | null
  hash: string
}

export function registerPage(app: FastifyInstance, page: Page): void {
  const config = { open: true }
  const read = createFileReader(page.files)

  app.get(
    page.path,
    {
      config,
      schema: {
        summary: page.summary,
        querystring: noQuery,
        response: { 200: fileResponse('the page', 'text/html') },
      },
    },
    async (_request, reply) => reply.headers(PAGE_HEADERS).type(HTML_TYPE).send(page.html),
  )

  app.get<{ Params: { file: string } }>(
    `${page.path}/:file`,
    {
      config,
      schema: {
        // A file belongs to the page, not to the API.
        hide: true,
        summary: 'A file of the page',
        params: z.object({ file: z.string() }),
        querystring: noQuery,
        response: { 200: fileResponse('the file', '*/*') },
      },
    },
    async (request, reply) => {
      const file = await read(request.params.file)
      reply.header('cache-control', page.cacheControl)
      return sendFile(reply, file, request.headers)
    },
  )
}

function fileResponse(description: string, type: string) {
  return { description, content: { [type]: { schema: z.string() } } }
}

function sendFile(
  reply: FastifyReply,
  { type, bytes, compressed, hash }: Loaded,
  headers: Record<string, unknown>,
): FastifyReply {
  const accepted = String(headers['accept-encoding'] ?? '')
  const gzipped = /\bgzip\b(?!\s*;\s*q=0)/.test(accepted) ? compressed : null
  const etag = gzipped === null ? `"${hash}"` : `"${hash}-gzip"`
  reply.headers({ ...PAGE_HEADERS, etag, vary: 'accept-encoding' })
  if (headers['if-none-match'] === etag) return reply.code(304).send()
  if (gzipped !== null) reply.header('content-encoding', 'gzip')
  return reply.type(type).send(gzipped ?? bytes)
}

/** Reads each file once, at its first request: most processes never get one. */
function createFileReader(files: Record<string, PageFile>): (name: string) => Promise<Loaded> {
  const known = new Map<string, Promise<Loaded>>()

  async function load({ type, load }: PageFile): Promise<Loaded> {
    const bytes = Buffer.from(await load())
    const isText = type.startsWith('text/') && bytes.length >= MIN_COMPRESSED_BYTES
    const compressed = isText ? await promisify(gzip)(bytes) : null
    const hash = createHash('sha256').update(bytes).digest('base64url').slice(0, 22)
    return { type, bytes, compressed, hash }
  }

  return (name) => {
    const file = Object.hasOwn(files, name) ? files[name] : undefined
    if (file === undefined) throw new AppError('not_found', 'the page has no such file')
    const loading = known.get(name) ?? load(file)
    known.set(name, loading)
    return loading
  }
}
