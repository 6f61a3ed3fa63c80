// The index marks of the table jobs on SQLite: columns that are null except while the job belongs
// in an index (schema.ts). A test store refuses every write that leaves a mark with a wrong value.
import { DatabaseSync } from 'node:sqlite'

/** What each mark contains, computed from columns that are no marks. */
const MARKS = {
  claimable: "iif(new.state = 'queued' and new.blocked = 0, 1, null)",
  expiring_at: "iif(new.state = 'queued', new.expires_at, null)",
  holds_keys: `iif(new.state in ('queued', 'running')
    and coalesce(new.dedupe_key, new.ordering_key, new.fairness_key) is not null, 1, null)`,
  unsuccessful: "iif(new.state in ('dead', 'cancelled'), new.state, null)",
  // Only a job that awaits completion has a lease of the wall clock alone.
  awaiting_until: "iif(new.state = 'running' and new.lease_boot is null, new.lease_wall, null)",
} as const

export function refuseWrongMarks(path: string): void {
  const db = new DatabaseSync(path, { timeout: 5_000 })
  const checks = Object.entries(MARKS).map(
    ([mark, value]) =>
      `select raise(abort, 'wrong index mark: ${mark}') where new.${mark} is not ${value};`,
  )
  for (const write of ['insert', 'update']) {
    db.exec(`create trigger marks_after_${write} after ${write} on jobs begin
      ${checks.join('\n')}
    end`)
  }
  db.close()
}
