// I6: a job leaves a final state only by a retry, and never leaves success.
import {
  called,
  effectOf,
  type Facts,
  isFinal,
  type JobFacts,
  mayBeRetried,
  type Report,
} from './facts.ts'

/** A state that a job had at some instant between the two instants here. */
interface Seen {
  state: string
  sentAtMs: number
  endedAtMs: number
  how: string
}

export function checkFinalStates(facts: Facts, report: Report): void {
  for (const job of facts.jobs.values()) {
    if (job.sightings.length + job.commands.length > 0) checkSeen(job, report)
    checkDead(job, report)
    checkDeleted(job, report)
  }
}

function checkSeen(job: JobFacts, report: Report): void {
  const seen = allSeen(job).sort((a, b) => a.sentAtMs - b.sentAtMs)
  const finals = seen
    .filter(({ state }) => isFinal(state))
    .sort((a, b) => a.endedAtMs - b.endedAtMs)
  let earlier: Seen | null = null
  let next = 0
  for (const later of seen) {
    for (let one = finals[next]; one && one.endedAtMs < later.sentAtMs; one = finals[++next]) {
      earlier = one
    }
    if (earlier === null || earlier.state === later.state) continue
    // Only dead and cancelled jobs can be retried.
    const mayLeave = earlier.state !== 'succeeded'
    if (mayLeave && mayBeRetried(job, earlier.sentAtMs, later.endedAtMs)) continue
    report(`${job.id} was ${earlier.state} (${earlier.how}), later ${later.state} (${later.how})`)
  }
}

function allSeen({ sightings, commands, record }: JobFacts): Seen[] {
  const seen: Seen[] = sightings.map((sighting) => ({ ...sighting, how: 'seen' }))
  for (const call of commands) {
    if (effectOf(call) !== 'done' || call.kind === 'delete') continue
    const { sentAtMs, endedAtMs } = call
    if (call.kind === 'cancel')
      seen.push({ state: 'cancelled', sentAtMs, endedAtMs, how: 'confirmed' })
    else seen.push({ state: 'queued', sentAtMs, endedAtMs, how: 'retried' })
  }
  if (record !== null) {
    const atTheEnd = { sentAtMs: Number.POSITIVE_INFINITY, endedAtMs: Number.POSITIVE_INFINITY }
    seen.push({ state: record.state, ...atTheEnd, how: 'at the end' })
  }
  return seen
}

/**
 * Checks that a dead job was not claimed again: its fence must not be greater than when it was seen
 * dead.
 */
function checkDead(job: JobFacts, report: Report): void {
  for (const sighting of job.sightings) {
    if (sighting.state !== 'dead') continue
    const claimed = job.deliveries.find(({ fence }) => fence > sighting.fence)
    if (claimed === undefined) continue
    if (mayBeRetried(job, sighting.sentAtMs, claimed.beganAtMs)) continue
    report(`${called(claimed)} was claimed after the job was seen dead`)
  }
}

function checkDeleted({ commands, record, id }: JobFacts, report: Report): void {
  const isDeleted = commands.some((call) => call.kind === 'delete' && effectOf(call) === 'done')
  if (isDeleted && record !== null) report(`${id} was deleted and is stored all the same`)
}
