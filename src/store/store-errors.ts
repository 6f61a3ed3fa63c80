// The errors of a store: it is unavailable now, or it is unusable until it or a setting is changed.
import type { Endpoint } from '../endpoint/endpoint.ts'

/** Why a store cannot be used now, in words for a client: no path, no text of a driver. */
export const UNAVAILABLE = {
  no_answer: 'did not respond in time',
  locked: 'is locked by another process',
  full: 'cannot store anything: its disk is full',
  read_only: 'cannot be written: it is read-only',
  disk_error: 'cannot be read or written: its disk reports an error',
  damaged: 'is damaged',
  key_file: 'cannot encrypt secrets: its key file cannot be read or holds no key',
  other_key: 'holds secrets that no key of this process decrypts',
  removed: 'was removed or replaced while it was in use',
  closed: 'is closed',
} as const
export type UnavailableKind = keyof typeof UNAVAILABLE

/** The store cannot be used now. A write may have happened. */
export class StoreUnavailable extends Error {
  override readonly name = 'StoreUnavailable'
  readonly kind: UnavailableKind

  /** @param message for the log: it may name the file or the server */
  constructor(message: string, options: { cause?: unknown; kind?: UnavailableKind } = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : {})
    this.kind = options.kind ?? 'no_answer'
  }
}

/**
 * The store cannot be used until a setting or the store is changed: the file is wrong, the
 * schema is newer, or the key is wrong. The process does not start.
 */
export class StoreUnusable extends Error {
  override readonly name = 'StoreUnusable'
}

/** No key of this process decrypts the value. */
export class Undecryptable extends StoreUnusable {
  /** The owner of the secret: the name of an endpoint or a schedule, or the id of a job. */
  readonly owner: string

  constructor(message: string, owner: string) {
    super(message)
    this.owner = owner
  }
}

/**
 * Returns the endpoint to code that needs its secrets or headers. Throws Undecryptable if no key
 * decrypts them.
 */
export function decrypted(endpoint: Endpoint): Endpoint {
  if (endpoint.undecryptable === null) return endpoint
  throw new Undecryptable(endpoint.undecryptable, endpoint.name)
}

/** A setting other than STORE_URL is missing, or names something that must not be used. */
export class SettingUnusable extends StoreUnusable {}
