// At the start, what was sealed with an older key is sealed with the one that seals now, so that
// the older one can be taken out of ENCRYPTION_KEY without any schedule being lost.
import type { MongoContext } from './context.ts'
import type { ScheduleDocument } from './record-documents.ts'
import { run, startDeadline } from './run-command.ts'
import { schedulesIn } from './schedules.ts'

/** Read, and sealed, in one go. */
const SCHEDULES_AT_ONCE = 200

type Sealed = Pick<ScheduleDocument, '_id' | 'settings'>

export async function resealSchedules(context: MongoContext): Promise<void> {
  let last: Sealed | undefined = { _id: '', settings: '' }
  while (last !== undefined) {
    const found: Sealed[] = await sealedAfter(context, last._id)
    await reseal(context, found)
    last = found.length === SCHEDULES_AT_ONCE ? found.at(-1) : undefined
  }
}

function sealedAfter(context: MongoContext, name: string): Promise<Sealed[]> {
  return run(startDeadline(), (limit) =>
    schedulesIn(context)
      .find<Sealed>(
        { _id: { $gt: name } },
        {
          projection: { settings: 1 },
          sort: { _id: 1 },
          limit: SCHEDULES_AT_ONCE,
          batchSize: SCHEDULES_AT_ONCE + 1,
          ...limit,
        },
      )
      .toArray(),
  )
}

async function reseal(context: MongoContext, found: Sealed[]) {
  const { box, unreadable } = context
  const operations = found.flatMap(({ _id, settings }) => {
    if (box.isCurrent(settings)) return []
    const plain = unreadable.openOrNote(_id, () => box.open(settings, _id))
    if (plain === null) return []
    // The guard: what was opened is what is stored.
    const update = { $set: { settings: box.seal(plain, _id) } }
    return [{ updateOne: { filter: { _id, settings }, update } }]
  })
  if (operations.length === 0) return
  await run(startDeadline(), (limit) =>
    schedulesIn(context).bulkWrite(operations, { ordered: false, ...limit }),
  )
}
