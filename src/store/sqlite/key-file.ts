// The encryption keys: those of ENCRYPTION_KEY, or the key file beside the database, which is
// created when the first secret is stored.

import { randomBytes } from 'node:crypto'
import { closeSync, fsyncSync, linkSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { createSecretBox, KEY_SHAPE, newKey, readKey, type SecretBox } from '../secret-box.ts'
import { StoreUnavailable, StoreUnusable, type UnavailableKind } from '../store-errors.ts'

const OWNER_ONLY = 0o600
/** Why a file cannot be created, by the code of the system. Other codes are disk errors. */
const KINDS: Record<string, UnavailableKind> = {
  ...{ ENOSPC: 'full', EDQUOT: 'full' },
  ...{ EACCES: 'read_only', EPERM: 'read_only', EROFS: 'read_only' },
}

export interface KeyRing {
  seal(plain: string, owner: string): string
  open(sealed: string, owner: string): string
  /** null: encrypted with a key that is missing now, or changed since. */
  openIfPossible(sealed: string, owner: string): string | null
  /** Whether it is encrypted with the current key. */
  isCurrent(sealed: string): boolean
  /** See SecretBox. Empty: there is no key file yet. */
  ids(): string[]
  /** Creates the key file if it is missing. Throws StoreUnavailable if that fails. */
  all(): Buffer[]
}

/**
 * @param given the keys that were set, or null for the key file
 * @param onFileUsed gets the path of the key file after a key was read from it
 */
export function createKeyRing(
  databasePath: string,
  given: Buffer[] | null,
  onFileUsed: (path: string) => void = () => {},
): KeyRing {
  const path = `${databasePath}.key`
  let keys = given
  let box: SecretBox | null = given === null ? null : createSecretBox(given)

  function use(found: Buffer[]): Buffer[] {
    if (keys === null) onFileUsed(path)
    keys ??= found
    return keys
  }

  function boxOf(found: Buffer[]): SecretBox {
    box ??= createSecretBox(use(found), `the key file ${path}`)
    return box
  }

  function all(): Buffer[] {
    if (keys !== null) return keys
    try {
      return use([readKeyFile(path) ?? makeKeyFile(path)])
    } catch (error) {
      // This can happen after the start. Once the file is repaired, the next write reads it.
      if (!(error instanceof StoreUnusable)) throw error
      throw new StoreUnavailable(error.message, { cause: error, kind: 'key_file' })
    }
  }

  function opener(): SecretBox {
    if (box !== null) return box
    const key = keys?.[0] ?? readKeyFile(path)
    if (key === null) {
      throw new StoreUnusable(
        `the key file ${path} is missing; the stored secrets cannot be read without it: restore it from a backup, or set ENCRYPTION_KEY to its key`,
      )
    }
    return boxOf([key])
  }

  return {
    seal: (plain, owner) => boxOf(all()).seal(plain, owner),
    open: (sealed, owner) => opener().open(sealed, owner),
    openIfPossible(sealed, owner) {
      try {
        return opener().open(sealed, owner)
      } catch (error) {
        if (error instanceof StoreUnusable) return null
        throw error
      }
    },
    isCurrent: (sealed) => opener().isCurrent(sealed),
    ids() {
      try {
        return opener().keyIds
      } catch (error) {
        if (error instanceof StoreUnusable) return []
        throw error
      }
    },
    all,
  }
}

function readKeyFile(path: string): Buffer | null {
  const text = readIfThere(path)
  if (text === null) return null
  const key = readKey(text.trim())
  if (key !== null) return key
  throw new StoreUnusable(`the key file ${path} does not hold one key: ${KEY_SHAPE}`)
}

function readIfThere(path: string): string | null {
  try {
    return readFileSync(path, 'latin1')
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null
    throw new StoreUnusable(`the key file ${path} cannot be read`, { cause: error })
  }
}

/**
 * Writes the file under a temporary name, flushes it, and links it to its own name: a file with its
 * name is complete. Of several processes one wins, and the others read its file.
 */
function makeKeyFile(path: string): Buffer {
  const draft = `${path}.${randomBytes(6).toString('hex')}`
  try {
    writeDurably(draft, `${newKey().toString('base64')}\n`)
    try {
      linkSync(draft, path)
      flushFolder(dirname(path))
    } catch (error) {
      if (codeOf(error) !== 'EEXIST') throw error
    }
  } catch (error) {
    throw cannotCreate(path, error)
  } finally {
    rmSync(draft, { force: true })
  }
  const key = readKeyFile(path)
  if (key === null) throw cannotCreate(path, new Error('its name is a link to a missing file'))
  return key
}

/**
 * The error is not StoreUnusable: once there is space or permission again, the next write creates
 * the file.
 */
function cannotCreate(path: string, cause: unknown): StoreUnavailable {
  const kind = KINDS[String(codeOf(cause))] ?? 'disk_error'
  const reason = cause instanceof Error ? cause.message : String(cause)
  return new StoreUnavailable(`the key file ${path} cannot be created: ${reason}`, { cause, kind })
}

function writeDurably(path: string, text: string): void {
  const file = openSync(path, 'wx', OWNER_ONLY)
  try {
    writeSync(file, text)
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}

/** The new name itself must survive power loss. Windows cannot open a folder for that. */
export function flushFolder(path: string): void {
  if (process.platform === 'win32') return
  const folder = openSync(path, 'r')
  try {
    fsyncSync(folder)
  } finally {
    closeSync(folder)
  }
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : null
}
