// The verbs of what is kept beside jobs and endpoints, each in the file named after its record.
import type { Store } from '../store.ts'
import { readApiMode, writeApiMode } from './api-mode.ts'
import type { MongoContext } from './context.ts'
import { addFigures, figuresSince } from './figures.ts'
import { addKey, listKeys, removeKey } from './keys.ts'
import {
  advanceSchedules,
  deleteSchedule,
  dueSchedules,
  getSchedule,
  listSchedules,
  putSchedule,
} from './schedules.ts'
import { deletedEndpoints, statsOf } from './stats.ts'
import { releaseUpkeep, takeUpkeep } from './upkeep-lease.ts'
import { listWorkers, removeWorker, reportWorker } from './workers.ts'

type RecordVerb =
  | 'putSchedule'
  | 'getSchedule'
  | 'listSchedules'
  | 'deleteSchedule'
  | 'dueSchedules'
  | 'advanceSchedules'
  | 'addKey'
  | 'listKeys'
  | 'removeKey'
  | 'reportWorker'
  | 'removeWorker'
  | 'listWorkers'
  | 'addFigures'
  | 'figuresSince'
  | 'statsOf'
  | 'deletedEndpoints'
  | 'takeUpkeep'
  | 'releaseUpkeep'
  | 'writeApiMode'
  | 'readApiMode'

export function recordVerbs(context: MongoContext): Pick<Store, RecordVerb> {
  return {
    putSchedule: (change, ifVersion) => putSchedule(context, change, ifVersion),
    getSchedule: (name) => getSchedule(context, name),
    listSchedules: (after, limit) => listSchedules(context, after, limit),
    deleteSchedule: (name, ifVersion) => deleteSchedule(context, name, ifVersion),
    dueSchedules: (limit) => dueSchedules(context, limit),
    advanceSchedules: (moves) => advanceSchedules(context, moves),
    addKey: (key) => addKey(context, key),
    listKeys: () => listKeys(context),
    removeKey: (id) => removeKey(context, id),
    reportWorker: (report) => reportWorker(context, report),
    removeWorker: (id) => removeWorker(context, id),
    listWorkers: () => listWorkers(context),
    addFigures: (figures, report) => addFigures(context, figures, report),
    figuresSince: (instant, endpoint) => figuresSince(context, instant, endpoint),
    statsOf: (names) => statsOf(context, names),
    deletedEndpoints: () => deletedEndpoints(context),
    takeUpkeep: (lease) => takeUpkeep(context, lease),
    releaseUpkeep: (holder) => releaseUpkeep(context, holder),
    writeApiMode: (mode) => writeApiMode(context, mode),
    readApiMode: () => readApiMode(context),
  }
}
