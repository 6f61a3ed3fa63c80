// Cursors: opaque to clients, for us the key after which the next page begins.
import { AppError } from '../../src/errors.ts'

export function writeCursor(key: string): string {
  return Buffer.from(key).toString('base64url')
}

/** @throws AppError invalid_request when this is no cursor that we gave */
export function readCursor(cursor: string, isKey: (key: string) => boolean): string {
  const key = Buffer.from(cursor, 'base64url').toString()
  if (isKey(key) && writeCursor(key) === cursor) return key
  const message = 'expected the nextCursor of an earlier answer'
  throw new AppError('invalid_request', `query/cursor: ${message}`, {
    errors: [{ path: 'query/cursor', message }],
  })
}
