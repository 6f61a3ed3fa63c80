// The settings of single fairness keys: reads and changes. A change holds for jobs that wait: it
// gives the turns of the key other tags, and claims look whether the key has room (key-limits.ts).
import {
  type CountedKey,
  DEFAULT_WEIGHT,
  type DeleteKeyResult,
  type FairnessKey,
  type KeyRecord,
  type KeySettings,
  MAX_KEYS_WITH_SETTINGS,
  NEW_KEY,
  type PutKeyResult,
} from '../../endpoint/key-limits.ts'
import { type IfVersion, isMet } from '../precondition.ts'
import { StoreUnavailable } from '../store-errors.ts'
import {
  type Deadline,
  isDuplicateKey,
  type MongoContext,
  run,
  startDeadline,
} from './connection.ts'
import {
  type FairnessKeyDocument,
  fairnessKeysIn,
  findKeys,
  idOfKey,
  idsOfEndpoint,
  restOf,
  setExpiry,
  settingsOf,
} from './fairness-keys.ts'
import { countJobs, PRIORITIES, wake } from './key-limits.ts'
import { retag } from './turns.ts'

/** The most tries of a change. */
const MAX_ROUNDS = 10

export async function putFairnessKey(
  context: MongoContext,
  { endpoint, key }: FairnessKey,
  settings: KeySettings,
  ifVersion: IfVersion,
): Promise<PutKeyResult> {
  const deadline = startDeadline()
  // From now on claims and enqueues read the settings of its keys.
  const { matchedCount } = await run(deadline, (limit) =>
    context.endpoints.updateOne(
      { _id: endpoint, deleting: false },
      { $set: { hasKeySettings: true } },
      limit,
    ),
  )
  if (matchedCount === 0) return { kind: 'unknown_endpoint' }
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const stored = await findDocument(context, { endpoint, key }, deadline)
    const version = stored?.settings === undefined ? null : (stored.version ?? null)
    if (!isMet(ifVersion, version)) return { kind: 'stale', version }
    if (version === null && (await isFull(context, endpoint, deadline))) {
      return { kind: 'too_many_keys' }
    }
    const record = { key, settings, version: (version ?? 0) + 1, updatedAt: context.clock.now() }
    if (!(await writeSettings(context, endpoint, record, version, deadline))) continue
    const before = stored === null ? null : settingsOf(stored)
    await applySettings(context, { endpoint, key }, before, settings, deadline)
    const rest = settings.paused && stored !== null ? restOf(stored) : null
    return { kind: version === null ? 'created' : 'replaced', record: { ...record, rest } }
  }
  throw new StoreUnavailable('the settings of the key changed each time they were read')
}

export async function deleteFairnessKey(
  context: MongoContext,
  { endpoint, key }: FairnessKey,
  ifVersion: number | null,
): Promise<DeleteKeyResult> {
  const deadline = startDeadline()
  const stored = await findDocument(context, { endpoint, key }, deadline)
  const before = stored === null ? null : settingsOf(stored)
  const version = stored?.version
  if (before === null || version === undefined) return { kind: 'not_found' }
  if (ifVersion !== null && version !== ifVersion) return { kind: 'stale', version }
  const update = [{ $unset: ['settings', 'version', 'updatedAt'] }, setExpiry(context.clock.now())]
  const { matchedCount } = await run(deadline, (limit) =>
    fairnessKeysIn(context).updateOne({ _id: idOfKey({ endpoint, key }), version }, update, limit),
  )
  if (matchedCount === 0) throw new StoreUnavailable('the settings of the key have just changed')
  await applySettings(context, { endpoint, key }, before, null, deadline)
  return { kind: 'deleted' }
}

export async function fairnessKeysNamed(
  context: MongoContext,
  endpoint: string,
  keys: string[],
): Promise<KeyRecord[]> {
  if (keys.length === 0) return []
  const ids = new Map(keys.map((key) => [idOfKey({ endpoint, key }), key]))
  const found = await run(startDeadline(), (limit) =>
    fairnessKeysIn(context)
      .find({ _id: { $in: [...ids.keys()] } }, { batchSize: keys.length + 1, ...limit })
      .toArray(),
  )
  return found.flatMap((document) => {
    const { _id, version = 0, updatedAt } = document
    const [settings, rest] = [settingsOf(document), restOf(document)]
    const key = ids.get(_id)
    if (key === undefined || (settings === null && rest === null)) return []
    return [{ key, settings, version, updatedAt: updatedAt?.getTime() ?? null, rest }]
  })
}

export async function fairnessKeyState(
  context: MongoContext,
  key: FairnessKey,
): Promise<CountedKey> {
  const deadline = startDeadline()
  const states = await findKeys(context, [key], deadline)
  const counts = await countJobs(context, [key], states, context.clock.now(), deadline)
  const { running, sending } = counts(key)
  return { ...(states.get(idOfKey(key)) ?? NEW_KEY), running, sending }
}

function findDocument(
  context: MongoContext,
  key: FairnessKey,
  deadline: Deadline,
): Promise<FairnessKeyDocument | null> {
  return run(deadline, (limit) =>
    fairnessKeysIn(context).findOne({ _id: idOfKey(key) }, { ...limit }),
  )
}

async function isFull(
  context: MongoContext,
  endpoint: string,
  deadline: Deadline,
): Promise<boolean> {
  const count = await run(deadline, (limit) =>
    fairnessKeysIn(context).countDocuments(
      { _id: idsOfEndpoint(endpoint), settings: { $exists: true } },
      { limit: MAX_KEYS_WITH_SETTINGS, hint: 'with_settings', ...limit },
    ),
  )
  return count >= MAX_KEYS_WITH_SETTINGS
}

interface SettingsRecord {
  key: string
  settings: KeySettings
  version: number
  updatedAt: number
}

/** Returns false if they changed since they were read. */
async function writeSettings(
  context: MongoContext,
  endpoint: string,
  { key, settings, version, updatedAt }: SettingsRecord,
  asRead: number | null,
  deadline: Deadline,
): Promise<boolean> {
  const filter = {
    _id: idOfKey({ endpoint, key }),
    ...(asRead === null ? { settings: { $exists: false } } : { version: asRead }),
  }
  const update = {
    $set: { settings: JSON.stringify(settings), version, updatedAt: new Date(updatedAt) },
    $unset: { expiresAt: '' as const, ...(settings.paused ? {} : { rest: '' as const }) },
  }
  try {
    const { matchedCount, upsertedCount } = await run(deadline, (limit) =>
      fairnessKeysIn(context).updateOne(filter, update, { upsert: asRead === null, ...limit }),
    )
    return matchedCount + upsertedCount === 1
  } catch (error) {
    if (isDuplicateKey(error)) return false
    throw error
  }
}

/** The turns of the key get the tags of its weight, and claims look whether it has room. */
async function applySettings(
  context: MongoContext,
  { endpoint, key }: FairnessKey,
  before: KeySettings | null,
  after: KeySettings | null,
  deadline: Deadline,
): Promise<void> {
  const weights = [before, after].map((settings) => settings?.weight ?? DEFAULT_WEIGHT)
  const [weightBefore = DEFAULT_WEIGHT, weightAfter] = weights
  if (weightBefore !== weightAfter) {
    const lanes = PRIORITIES.map((priority) => ({ endpoint, priority, key }))
    await retag(context, lanes, weightBefore, deadline)
  }
  await wake(context, [{ endpoint, key }], deadline)
}
