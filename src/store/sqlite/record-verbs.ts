// The verbs of what is kept beside jobs and endpoints, each in the file named after its record.
import type { Store } from '../store.ts'
import { readApiMode, writeApiMode } from './api-mode.ts'
import type { Database } from './database.ts'
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

export function recordVerbs(database: Database): Pick<Store, RecordVerb> {
  return {
    putSchedule: (change, ifVersion) => putSchedule(database, change, ifVersion),
    getSchedule: (name) => getSchedule(database, name),
    listSchedules: (after, limit) => listSchedules(database, after, limit),
    deleteSchedule: (name, ifVersion) => deleteSchedule(database, name, ifVersion),
    dueSchedules: (limit) => dueSchedules(database, limit),
    advanceSchedules: (moves) => advanceSchedules(database, moves),
    addKey: (key) => addKey(database, key),
    listKeys: () => listKeys(database),
    removeKey: (id) => removeKey(database, id),
    reportWorker: (report) => reportWorker(database, report),
    removeWorker: (id) => removeWorker(database, id),
    listWorkers: () => listWorkers(database),
    addFigures: (figures) => addFigures(database, figures),
    figuresSince: (instant, endpoint) => figuresSince(database, instant, endpoint),
    statsOf: (names) => statsOf(database, names),
    deletedEndpoints: () => deletedEndpoints(database),
    takeUpkeep: (lease) => takeUpkeep(database, lease),
    releaseUpkeep: (holder) => releaseUpkeep(database, holder),
    writeApiMode: (mode) => writeApiMode(database, mode),
    readApiMode: () => readApiMode(database),
  }
}
