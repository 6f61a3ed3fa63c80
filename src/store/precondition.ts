// The stored version that a write depends on: one rule for both stores.

/**
 * The version that must be stored. `any`: the record must exist; `none`: it must not exist; null:
 * no condition.
 */
export type IfVersion = number | 'any' | 'none' | null

/** @param stored null: the record does not exist */
export function isMet(wanted: IfVersion, stored: number | null): boolean {
  if (wanted === null) return true
  if (wanted === 'any') return stored !== null
  return wanted === 'none' ? stored === null : stored === wanted
}

/** The result of a write to an existing record whose version is not the required one. */
export interface OtherVersion {
  storedVersion: number
}

/** @returns null: the version allows the write */
export function otherVersion(
  stored: { version: number } | null,
  ifVersion: number | null,
): OtherVersion | null {
  if (stored === null || ifVersion === null || stored.version === ifVersion) return null
  return { storedVersion: stored.version }
}
