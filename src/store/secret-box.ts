// Encrypts secrets at rest with AES-256-GCM. Each is stored with the id of its key and bound to the
// name of its owner (NIST SP 800-38D).
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto'
import { StoreUnusable, Undecryptable } from './store-errors.ts'

const ALGORITHM = 'aes-256-gcm'
const VERSION = 'v1'
const IV_BYTES = 12
const TAG_BYTES = 16
const KEY_BYTES = 32

/** How a key is written. */
export const KEY_SHAPE = `${KEY_BYTES} bytes in base64, 44 characters, as \`openssl rand -base64 ${KEY_BYTES}\` prints them`

export function newKey(): Buffer {
  return randomBytes(KEY_BYTES)
}

/**
 * The bytes of a key; null: the text is not the canonical base64 of one. Node ignores characters
 * that are not base64 and everything after the first `=`, so it would accept a part of a text as a
 * key.
 */
export function readKey(text: string): Buffer | null {
  const key = Buffer.from(text, 'base64')
  return key.length === KEY_BYTES && key.toString('base64') === text ? key : null
}

export interface SecretBox {
  /**
   * open() needs the same `owner` (the name of the endpoint), so that a secret cannot be moved to
   * another record.
   */
  seal(plain: string, owner: string): string
  /** Throws Undecryptable if no key fits or the text was changed. */
  open(sealed: string, owner: string): string
  /** Whether it was encrypted with the first key. */
  isCurrent(sealed: string): boolean
  /** The ids of the keys, that of the first key first. An id reveals nothing else about its key. */
  keyIds: string[]
}

/**
 * Encrypts with the first key and decrypts with any of the keys, which have 32 bytes each.
 *
 * @param keyHolder what holds them, for the operator
 */
export function createSecretBox(keys: Buffer[], keyHolder = 'ENCRYPTION_KEY'): SecretBox {
  const [first] = keys
  if (first === undefined) throw new StoreUnusable('no encryption key is set')
  const keysById = new Map(keys.map((key) => [keyId(key), key]))
  return {
    keyIds: [...keysById.keys()],
    seal(plain, owner) {
      const iv = randomBytes(IV_BYTES)
      const cipher = createCipheriv(ALGORITHM, first, iv, { authTagLength: TAG_BYTES })
      cipher.setAAD(Buffer.from(owner))
      const parts = [iv, cipher.update(plain, 'utf8'), cipher.final(), cipher.getAuthTag()]
      const sealed = Buffer.concat(parts)
      return `${VERSION}.${keyId(first)}.${sealed.toString('base64')}`
    },
    isCurrent: (text) => keyIdOf(text) === keyId(first),
    open(text, owner) {
      const [version, id, base64] = text.split('.')
      const key = keysById.get(id ?? '')
      if (version !== VERSION || key === undefined || base64 === undefined) {
        throw new Undecryptable(
          `the stored secret of ${owner} was encrypted with a key that ${keyHolder} does not hold: ${adviceFor(keyHolder)}`,
          owner,
        )
      }
      const sealed = Buffer.from(base64, 'base64')
      const decipher = createDecipheriv(ALGORITHM, key, sealed.subarray(0, IV_BYTES), {
        authTagLength: TAG_BYTES,
      })
      decipher.setAAD(Buffer.from(owner))
      decipher.setAuthTag(sealed.subarray(-TAG_BYTES))
      try {
        return Buffer.concat([
          decipher.update(sealed.subarray(IV_BYTES, -TAG_BYTES)),
          decipher.final(),
        ]).toString('utf8')
      } catch {
        throw new Undecryptable(
          `the stored secret of ${owner} was changed or belongs to another endpoint: restore it from a backup`,
          owner,
        )
      }
    },
  }
}

function adviceFor(keyHolder: string): string {
  return keyHolder === 'ENCRYPTION_KEY'
    ? 'add that key to the end of ENCRYPTION_KEY, separated by a comma'
    : 'restore the key file that belongs to this store, or set ENCRYPTION_KEY to its key'
}

/** The id of the key that encrypted it. */
export function keyIdOf(sealed: string): string {
  return sealed.split('.')[1] ?? ''
}

/** Identifies a key, and reveals nothing else about it. */
function keyId(key: Buffer): string {
  return createHash('sha256').update('posthorn key id').update(key).digest('hex').slice(0, 8)
}
