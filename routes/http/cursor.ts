// Paging: the query fields of every list, and cursors. A cursor is opaque to clients and contains
// the key after which the next page begins.
import { z } from 'zod'
import { AppError } from '../../src/errors.ts'

export const MAX_PAGE = 100

export const pageFields = {
  limit: z
    .string()
    .regex(/^\d{1,3}$/, 'expected a whole number from 1 to 100')
    .transform(Number)
    .refine((value) => value >= 1 && value <= MAX_PAGE, 'expected a whole number from 1 to 100')
    .prefault('25')
    .meta({ description: 'records in a page, 1 to 100' }),
  cursor: z.string().max(256).optional(),
}

export function writeCursor(key: string): string {
  return Buffer.from(key).toString('base64url')
}

/** @throws AppError invalid_request for a cursor that Posthorn did not create */
export function readCursor(cursor: string, isKey: (key: string) => boolean): string {
  const key = Buffer.from(cursor, 'base64url').toString()
  if (isKey(key) && writeCursor(key) === cursor) return key
  const message = 'expected the nextCursor of an earlier response'
  throw new AppError('invalid_request', `query/cursor: ${message}`, {
    errors: [{ path: 'query/cursor', message }],
  })
}
