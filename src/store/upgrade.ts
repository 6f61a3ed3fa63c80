// Which steps bring a store to the schema of this version, and which processes may take them: one
// rule for both stores. Each store runs its own steps (schema.ts).
import { setTimeout as delay } from 'node:timers/promises'
import { StoreUnusable } from './store-errors.ts'

export interface Step {
  /** The schema number after the step. */
  number: number
  /** false: processes of earlier versions cannot use the store after it, so they stop before. */
  online: boolean
}

/**
 * Which steps a process takes. A process that may create the store takes the online ones, a worker
 * takes none, and `posthorn migrate` takes all.
 */
export type Upgrades = 'none' | 'online' | 'all'

/** The changes that `posthorn migrate` has made. */
export interface Migrated {
  from: number
  to: number
  /** `collection.index` */
  createdIndexes: string[]
  changedIndexes: string[]
  droppedIndexes: string[]
  /** Sentences about indexes that the user must repair. */
  faults: string[]
}

/** A worker that starts together with the API waits this long for it to create or upgrade. */
const WAIT_MS = 5_000
const LOOK_MS = 50
/** A running worker reports more often. */
export const WORKER_RUNS_MS = 10_000

/** @param place names the store in the messages */
export function outstandingSteps<S extends Step>(
  place: string,
  schema: number,
  steps: readonly S[],
): readonly S[] {
  const newest = steps.at(-1)?.number ?? 0
  if (steps.some(({ number }) => number === schema)) {
    return steps.filter(({ number }) => number > schema)
  }
  throw new StoreUnusable(
    `${place} has schema ${schema}, and this version of Posthorn uses schema ${newest}: start the ` +
      'version that wrote it, or name another store in STORE_URL',
  )
}

/** @throws StoreUnusable unless a process with these rights may take these steps */
export function refuseSteps(place: string, steps: readonly Step[], upgrades: Upgrades): void {
  if (upgrades === 'all' || steps.length === 0) return
  const newest = steps.at(-1)?.number
  const isOnline = steps.every(({ online }) => online)
  if (upgrades === 'online' && isOnline) return
  throw new StoreUnusable(
    `${place} has an older schema, and this version of Posthorn uses schema ${newest}: ` +
      (isOnline
        ? 'run posthorn migrate, or start the API of this version first, without --existing-store'
        : 'stop every API and worker, and run posthorn migrate'),
  )
}

/** @throws StoreUnusable if workers run and one of the steps needs them to be stopped */
export function refuseWhileInUse(steps: readonly Step[], runningWorkers: number): void {
  if (runningWorkers === 0 || steps.every(({ online }) => online)) return
  throw new StoreUnusable(
    `workers use the store: ${runningWorkers} (posthorn workers lists them). Stop every API and ` +
      `worker, and run posthorn migrate ${WORKER_RUNS_MS / 1_000} s later`,
  )
}

/** Resolves once the API has created or upgraded the store, or when it took too long. */
export async function waitForApi(isDone: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + WAIT_MS
  while (!(await isDone()) && performance.now() < deadline) await delay(LOOK_MS)
}

export function missingStore(place: string): StoreUnusable {
  return new StoreUnusable(
    `there is no store ${place}, and this process does not create one. If there was one, restore ` +
      'it from a backup; otherwise start the API first, without --existing-store',
  )
}
