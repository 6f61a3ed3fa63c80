// The names of Posthorn's collections in MongoDB, for those who must keep away from them: settings
// and commands are checked where no driver is loaded.

/** By what they hold: the name without its prefix. */
const SUFFIXES = {
  jobs: 'jobs',
  /** Large payloads and results. */
  bodies: 'bodies',
  endpoints: 'endpoints',
  schedules: 'schedules',
  keys: 'keys',
  workers: 'workers',
  minuteStats: 'minute_stats',
  meta: 'meta',
} as const

export type CollectionKind = keyof typeof SUFFIXES
export type CollectionNames = Record<CollectionKind, string>

/** @param prefix another one is for the scratch collections of `posthorn doctor store` */
export function collectionNames(prefix: string): CollectionNames {
  const names = Object.entries(SUFFIXES).map(([kind, suffix]) => [kind, `${prefix}${suffix}`])
  return Object.fromEntries(names) as CollectionNames
}

/** No other collection of the database is ours, whatever its name. */
export const COLLECTIONS = collectionNames('posthorn_')

const NAMES: string[] = Object.values(COLLECTIONS)

/** In any case: names that differ by that alone are a slip. */
export function isOwnCollection(name: string): boolean {
  return NAMES.includes(name.toLowerCase())
}
