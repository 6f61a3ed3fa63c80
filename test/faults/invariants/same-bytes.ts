// I9: every attempt sends the enqueued bytes under the same id, signed, with a fresh timestamp.
import type { Delivery } from '../history.ts'
import { called, type Facts, type Report, writtenByMs } from './facts.ts'

/** A timestamp is in whole seconds and is taken just before the request is sent. */
const FRESH_MS = 5_000

export function checkSameBytes(facts: Facts, report: Report): void {
  const { history, jobs, works } = facts
  for (const delivery of history.deliveries) {
    const { jobId, workNumber, bodyHash, signature } = delivery
    const ownWork = jobs.get(jobId)?.workNumber ?? null
    if (ownWork !== null && ownWork !== workNumber) {
      report(`${called(delivery)} brought work ${workNumber}, but was enqueued as ${ownWork}`)
    }
    const work = works.get(workNumber)
    if (work?.calls.every((call) => call.bodyHash !== bodyHash)) {
      report(`${called(delivery)} brought other bytes than were enqueued`)
    }
    if (signature !== 'valid') report(`${called(delivery)} had no valid signature`)
    checkTimestamp(facts, delivery, report)
  }
}

function checkTimestamp(facts: Facts, delivery: Delivery, report: Report): void {
  if (!facts.isStoreClockTrue) return
  const { beganAtMs, timestampSeconds, jobId } = delivery
  const signedAtMs = timestampSeconds * 1_000 - facts.history.epochOffsetMs
  const ageMs = beganAtMs - signedAtMs
  if (Math.abs(ageMs) <= FRESH_MS) return
  // A worker that was frozen between signing and sending cannot sign again.
  if (ageMs > 0 && facts.faults.isHeldUp(signedAtMs, beganAtMs)) return
  const job = facts.jobs.get(jobId)
  const writtenAtMs = job === undefined ? beganAtMs : writtenByMs(facts, job, delivery)
  if (Math.abs(writtenAtMs - signedAtMs) <= FRESH_MS) return
  report(`${called(delivery)} had a timestamp ${Math.round(ageMs)} ms old`)
}
