// On which stored version a write depends. A shared leaf: both stores judge by it.

/**
 * A version; `any`: something of this name must be stored; `none`: nothing may be; null: it depends
 * on nothing.
 */
export type IfVersion = number | 'any' | 'none' | null

/** @param stored null: nothing of this name is stored */
export function isMet(wanted: IfVersion, stored: number | null): boolean {
  if (wanted === null) return true
  if (wanted === 'any') return stored !== null
  return wanted === 'none' ? stored === null : stored === wanted
}

/** Of a write to what is there already: it named another version than the stored one. */
export interface OtherVersion {
  storedVersion: number
}

/** @returns null: the version does not stand in the way of the write */
export function otherVersion(
  stored: { version: number } | null,
  ifVersion: number | null,
): OtherVersion | null {
  if (stored === null || ifVersion === null || stored.version === ifVersion) return null
  return { storedVersion: stored.version }
}
