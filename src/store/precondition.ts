// On which stored version a write depends. A shared leaf: both stores judge by it.

/** A version; `none`: nothing of this name may be stored; null: it depends on nothing. */
export type IfVersion = number | 'none' | null

/** @param stored null: nothing of this name is stored */
export function isMet(wanted: IfVersion, stored: number | null): boolean {
  if (wanted === null) return true
  return wanted === 'none' ? stored === null : stored === wanted
}
