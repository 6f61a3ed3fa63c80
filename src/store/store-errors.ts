// Why a store cannot be used: now, or as it is.
import type { Endpoint } from '../endpoint/endpoint.ts'

/** Why a store cannot be used now, in words for a client: no path, no text of a driver. */
export const UNAVAILABLE = {
  no_answer: 'did not answer in time',
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
 * The store can not be used as it is: a wrong file, a newer schema, a wrong key. Ends the start.
 */
export class StoreUnusable extends Error {
  override readonly name = 'StoreUnusable'
}

/** No key opens what is encrypted. */
export class Undecryptable extends StoreUnusable {
  /** What it belongs to: the name of an endpoint or a schedule, or the id of a job. */
  readonly owner: string

  constructor(message: string, owner: string) {
    super(message)
    this.owner = owner
  }
}

/** The endpoint, for what needs its secrets or headers. Throws Undecryptable without them. */
export function decrypted(endpoint: Endpoint): Endpoint {
  if (endpoint.undecryptable === null) return endpoint
  throw new Undecryptable(endpoint.undecryptable, endpoint.name)
}

/** A setting beside STORE_URL is missing, or names what must not be used. */
export class SettingUnusable extends StoreUnusable {}
