// API keys as they are stored.

export const MAX_KEYS = 1_000
export const KEY_SCOPES = ['enqueue', 'work', 'admin'] as const
export type KeyScope = (typeof KEY_SCOPES)[number]

/** An API key. The store has only the SHA-256 of the key itself. */
export interface StoredKey {
  id: string
  name: string
  scope: KeyScope
  /** Base64. */
  hash: string
  createdAt: number
}
