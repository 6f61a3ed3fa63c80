// Request bodies: which content types are accepted, and how a body is read within the limit of its
// route. src/wire/envelope.ts parses it.
import type { IncomingMessage } from 'node:http'
import type { Readable } from 'node:stream'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { AppError } from '../../src/errors.ts'
import { parseRequest } from '../../src/wire/envelope.ts'
import type { CountBody } from './inflight-limits.ts'

const JSON_TYPE = 'application/json'
export const JSON_TYPE_SHAPE = /^application\/json\s*(;|$)/i

/**
 * Requests that were begun without Fastify (jobs/plain-enqueue.ts) and that it finishes: with the
 * body that was read, or with the error of the request.
 */
export const begunRequests = new WeakMap<IncomingMessage, { body: Buffer } | { error: unknown }>()

/**
 * Reads bodies: JSON with any parameters (RFC 8259 defines none), with the payload as bytes. An
 * empty body counts as no body, whatever its content type: clients send one for a POST without
 * data.
 */
export function acceptJson(app: FastifyInstance, countBody: CountBody): void {
  app.removeAllContentTypeParsers()
  app.addHook('onRequest', (request, _reply, done) => {
    // Fastify refuses a malformed content type before any parser can see that the body is empty.
    const { headers } = request.raw
    if (headers['content-type'] !== undefined) {
      if (JSON_TYPE_SHAPE.test(headers['content-type'])) headers['content-type'] = JSON_TYPE
      else delete headers['content-type']
    }
    done()
  })
  app.addContentTypeParser(JSON_TYPE, async (request: FastifyRequest, stream: IncomingMessage) => {
    const begun = begunRequests.get(request.raw)
    if (begun !== undefined && 'error' in begun) {
      // Fastify closes the connection after an error of this parser. If the body was read, the
      // route throws the error instead.
      if (!request.raw.complete) throw begun.error
      return undefined
    }
    const body = begun?.body ?? (await readWhole(request, stream, countBody))
    if (body.length === 0) return undefined
    const coding = request.headers['content-encoding'] ?? 'identity'
    if (coding.toLowerCase() !== 'identity') {
      throw new AppError('unsupported_media_type', 'send the body without a content-encoding')
    }
    return parseRequest(body)
  })
  app.addContentTypeParser('*', async (request: FastifyRequest, stream: IncomingMessage) => {
    if (request.is404 || (await isEmpty(request, stream))) return undefined
    throw new AppError('unsupported_media_type', 'content-type must be application/json')
  })
}

/** Reads only until the first byte of a body. */
function isEmpty(request: FastifyRequest, stream: IncomingMessage): Promise<boolean> {
  if (Number(request.headers['content-length']) > 0) return Promise.resolve(false)
  return new Promise((resolve, reject) => {
    stream.once('data', () => {
      resolve(false)
      // The rest of the body is discarded, and the connection is closed after the response.
      stream.resume()
    })
    stream.once('end', () => resolve(true))
    stream.once('error', reject).once('close', reject)
  })
}

/**
 * Reads a body as a whole. Fastify can do so, too, but it does not report how many bytes it has in
 * memory meanwhile.
 *
 * @throws AppError payload_too_large, or overloaded
 */
function readWhole(
  request: FastifyRequest,
  stream: Readable,
  countBody: CountBody,
): Promise<Buffer> {
  const limitBytes = request.routeOptions.bodyLimit
  if (Number(request.headers['content-length']) > limitBytes)
    return Promise.reject(tooLarge(limitBytes))
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let length = 0
    let isOver = false
    function onData(chunk: Buffer): void {
      if (isOver) return
      length += chunk.length
      try {
        if (length > limitBytes) throw tooLarge(limitBytes)
        countBody(request, chunk.length, length)
        chunks.push(chunk)
      } catch (error) {
        fail(error)
      }
    }
    function fail(error: unknown): void {
      if (isOver) return
      isOver = true
      // The rest of the body is discarded, and the connection is closed after the response.
      stream.resume()
      reject(error)
    }
    function onEnd(): void {
      isOver = true
      resolve(Buffer.concat(chunks, length))
    }
    function onClose(): void {
      // This check comes before the error is created, which would cost more than everything else
      // here.
      if (isOver) return
      fail(new AppError('invalid_request', 'the body is incomplete'))
    }
    stream.on('data', onData).on('end', onEnd).on('error', fail).on('close', onClose)
  })
}

function tooLarge(limitBytes: number): AppError {
  const detail = `the body is larger than ${limitBytes} bytes, the limit of this route`
  return new AppError('payload_too_large', detail)
}
