// The names of Posthorn's collections in MongoDB, and the databases that it must not use. Without a
// driver, so that the checks of settings and commands can refuse these names.

/** The names without their prefix, by what the collections contain. */
const SUFFIXES = {
  jobs: 'jobs',
  /** Payloads and results that are too large for the document of a job. */
  bodies: 'bodies',
  endpoints: 'endpoints',
  schedules: 'schedules',
  keys: 'keys',
  fairnessKeys: 'fairness_keys',
  limits: 'limits',
  groups: 'groups',
  workers: 'workers',
  minuteStats: 'minute_stats',
  meta: 'meta',
} as const

export type CollectionKind = keyof typeof SUFFIXES
export type CollectionNames = Record<CollectionKind, string>

/** @param prefix `posthorn_`, or that of the scratch collections of `posthorn doctor store` */
export function collectionNames(prefix: string): CollectionNames {
  const names = Object.entries(SUFFIXES).map(([kind, suffix]) => [kind, `${prefix}${suffix}`])
  return Object.fromEntries(names) as CollectionNames
}

/** No other collection of the database is ours, whatever its name. */
export const COLLECTIONS = collectionNames('posthorn_')

const NAMES: string[] = Object.values(COLLECTIONS)
/** The databases of MongoDB itself. */
const SYSTEM_DATABASES = ['admin', 'config', 'local']

/** Ignores case: a name that differs only in case is a mistake of the user. */
export function isOwnCollection(name: string): boolean {
  return NAMES.includes(name.toLowerCase())
}

/** Ignores case, because two databases whose names differ only in case cannot exist. */
export function isSystemDatabase(name: string): boolean {
  return SYSTEM_DATABASES.includes(name.toLowerCase())
}
