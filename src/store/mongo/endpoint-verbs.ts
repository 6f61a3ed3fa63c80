// What people do to an endpoint apart from its settings: pause, resume, rotate its secret.
import { type Endpoint, rotatedSecrets } from '../../endpoint/endpoint.ts'
import { type OtherVersion, otherVersion } from '../precondition.ts'
import { StoreUnavailable } from '../store.ts'
import { randomId } from './changes.ts'
import { type MongoContext, nowOf } from './context.ts'
import { dateOrNull } from './documents.ts'
import { type EndpointDocument, endpointOf, validSecrets } from './endpoint-documents.ts'
import { findEndpoint, MAX_ROUNDS } from './endpoints.ts'
import { run, startDeadline } from './run-command.ts'

type Changed = Promise<Endpoint | OtherVersion | null>

export function pauseEndpoint(
  context: MongoContext,
  name: string,
  ifVersion: number | null = null,
): Changed {
  return change(context, name, ifVersion, { paused: true }, { $not: ['$paused'] })
}

export function resumeEndpoint(
  context: MongoContext,
  name: string,
  ifVersion: number | null = null,
): Changed {
  const fields = {
    paused: false,
    disabledReason: null,
    restingUntil: null,
    restCause: null,
    throttleStreak: 0,
    failureCount: 0,
    ramp: null,
    // A report that was reckoned from what was before is reckoned anew.
    healthId: randomId(),
  }
  // What it resets beside these three are counts, which never raise a version.
  const isHeldBack = {
    $or: ['$paused', { $ne: ['$disabledReason', null] }, { $ne: ['$restingUntil', null] }],
  }
  return change(context, name, ifVersion, fields, isHeldBack)
}

export async function rotateSecret(
  context: MongoContext,
  name: string,
  secret: string,
  overlapMs: number,
  ifVersion: number | null = null,
): Promise<Endpoint | OtherVersion | { fullUntil: number } | null> {
  const deadline = startDeadline()
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const stored = await findEndpoint(context, name, deadline)
    const other = otherVersion(stored, ifVersion)
    if (other !== null) return other
    if (stored === null || stored.deleting) return shown(context, stored)
    const now = context.clock.now()
    const valid = validSecrets(stored, now).map(({ sealed, until }) => ({
      sealed,
      until: until?.getTime() ?? null,
    }))
    const sealed = context.box.seal(secret, name)
    const rotated = rotatedSecrets(valid, { sealed, until: null }, overlapMs, now)
    if ('fullUntil' in rotated) return rotated
    const secrets = rotated.map((one) => ({ ...one, until: dateOrNull(one.until) }))
    const written = await run(deadline, (limit) =>
      context.endpoints.findOneAndUpdate(
        { _id: name, version: stored.version, deleting: false },
        { $set: { secrets, updatedAt: new Date(now) }, $inc: { version: 1 } },
        { returnDocument: 'after', ...limit },
      ),
    )
    if (written !== null) return shown(context, written)
  }
  throw new StoreUnavailable('the endpoint changed each time it was read')
}

/** @param isChanged an expression over the stored document: whether its version is raised */
async function change(
  context: MongoContext,
  name: string,
  ifVersion: number | null,
  fields: Partial<EndpointDocument>,
  isChanged: object,
): Changed {
  const deadline = startDeadline()
  const updatedAt = { $cond: [isChanged, nowOf(context), '$updatedAt'] }
  const version = { $add: ['$version', { $cond: [isChanged, 1, 0] }] }
  const update = [{ $set: { ...fields, updatedAt, version } }]
  const written = await run(deadline, (limit) =>
    context.endpoints.findOneAndUpdate(
      { _id: name, deleting: false, ...(ifVersion === null ? {} : { version: ifVersion }) },
      update,
      { returnDocument: 'after', ...limit },
    ),
  )
  if (written !== null) return shown(context, written)
  const stored = await findEndpoint(context, name, deadline)
  // Of one that is being deleted nothing is changed.
  return otherVersion(stored, ifVersion) ?? shown(context, stored)
}

function shown(context: MongoContext, document: EndpointDocument | null): Endpoint | null {
  return document === null ? null : endpointOf(document, context.box, context.clock.now())
}
