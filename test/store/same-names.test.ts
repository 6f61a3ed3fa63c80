// The two stores are laid out alike: a reader who knows where one keeps something finds it in the
// other. Files and verbs that are not yet so are listed, and each list only ever grows shorter.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ENGINES, type Engine } from '../support/stores.ts'

const STORE = join(import.meta.dirname, '../../src/store')

/**
 * Files without a counterpart. In the end only what belongs to one database is left: the outbox of
 * MongoDB, the write queue and the backup of SQLite.
 */
const OWN_FILES: Record<Engine, string[]> = {
  sqlite: [
    'admission.ts',
    'backup.ts',
    'blocked-jobs.ts',
    'commands.ts',
    'connection.ts',
    'deleted-endpoints.ts',
    'endpoint-row.ts',
    'errors.ts',
    'file-in-place.ts',
    'finish-effects.ts',
    'job-row.ts',
    'key-file.ts',
    'key-rotation.ts',
    'notifier.ts',
    'records.ts',
    'schema.ts',
    'set-back.ts',
    'store.ts',
    'write-queue.ts',
  ],
  mongo: [
    'aftermath.ts',
    'api-mode.ts',
    'attempt-documents.ts',
    'by-hand.ts',
    'candidates.ts',
    'changes.ts',
    'claimed-documents.ts',
    'collections.ts',
    'connect.ts',
    'context.ts',
    'debts.ts',
    'disown.ts',
    'documents.ts',
    'edit.ts',
    'eligible-endpoints.ts',
    'endings.ts',
    'endpoint-documents.ts',
    'endpoint-health.ts',
    'endpoint-verbs.ts',
    'ends.ts',
    'enqueue-grounds.ts',
    'enqueue-insert.ts',
    'figures.ts',
    'gate.ts',
    'gone-endpoints.ts',
    'heartbeat.ts',
    'held.ts',
    'hints.ts',
    'in-place.ts',
    'indexes.ts',
    'job-lists.ts',
    'keys.ts',
    'lost-attempts.ts',
    'mongo-store.ts',
    'new-job-document.ts',
    'outbox-documents.ts',
    'outbox-json.ts',
    'outbox-place.ts',
    'outbox.ts',
    'overdue.ts',
    'record-documents.ts',
    'record-indexes.ts',
    'reseal-schedules.ts',
    'run-command.ts',
    'seal-anew.ts',
    'start-errors.ts',
    'take-over.ts',
    'turns.ts',
    'upkeep-lease.ts',
    'workers.ts',
  ],
}

/** Verbs of the port that the two stores keep in files of different names. */
const VERBS_APART = [
  'due',
  'claim',
  'heartbeat',
  'overdue',
  'correctInstants',
  'endOverdue',
  'cancel',
  'retry',
  'edit',
  'deleteJob',
  'listJobs',
  'headOfOrderingKey',
  'pauseEndpoint',
  'resumeEndpoint',
  'rotateSecret',
  'reportHealth',
  'countJobs',
  'addKey',
  'listKeys',
  'removeKey',
  'reportWorker',
  'removeWorker',
  'listWorkers',
  'addFigures',
  'figuresSince',
  'takeUpkeep',
  'releaseUpkeep',
  'writeApiMode',
  'readApiMode',
]

const VERBS = [...readFileSync(join(STORE, 'store.ts'), 'utf8').matchAll(/^ {2}(\w+)\(/gm)].map(
  ([, verb]) => verb as string,
)

function filesOf(engine: Engine): string[] {
  return readdirSync(join(STORE, engine))
}

/** The file that exports a function of this name; null: none does. */
function fileOfVerb(engine: Engine, verb: string): string | null {
  const declaration = new RegExp(`^export (async )?function ${verb}\\b`, 'm')
  const found = filesOf(engine).find((file) =>
    declaration.test(readFileSync(join(STORE, engine, file), 'utf8')),
  )
  return found ?? null
}

test.each(ENGINES)('%s has no file that the other store lacks, but for those listed', (engine) => {
  const [other] = ENGINES.filter((one) => one !== engine)
  const others = new Set(filesOf(other as Engine))
  const own = filesOf(engine).filter((file) => !others.has(file))
  expect(own).toEqual(OWN_FILES[engine])
})

test('a verb is in a file of the same name in both stores, but for those listed', () => {
  expect(VERBS).toContain('enqueue')
  const apart = VERBS.filter((verb) => fileOfVerb('sqlite', verb) !== fileOfVerb('mongo', verb))
  expect(apart).toEqual(VERBS_APART)
})
