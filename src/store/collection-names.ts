// The names of Posthorn's collections in MongoDB, for those who must keep away from them: settings
// and commands are checked where no driver is loaded.

/** By what they hold. No other collection of the database is ours, whatever its name. */
export const COLLECTIONS = {
  jobs: 'posthorn_jobs',
  endpoints: 'posthorn_endpoints',
  schedules: 'posthorn_schedules',
  keys: 'posthorn_keys',
  workers: 'posthorn_workers',
  minuteStats: 'posthorn_minute_stats',
  meta: 'posthorn_meta',
} as const

const NAMES: string[] = Object.values(COLLECTIONS)

/** In any case: names that differ by that alone are a slip. */
export function isOwnCollection(name: string): boolean {
  return NAMES.includes(name.toLowerCase())
}
