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
