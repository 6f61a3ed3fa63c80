// The payload of a job of a fault run: its number, and what the receiver is to do with it.
import { createHash } from 'node:crypto'

/** What the receiver does with a job unless a round takes its deliveries in hand itself. */
export interface Plan {
  /** So many attempts are answered by 500, by the count in posthorn-attempt. */
  failures?: number
  /** How long an answer takes. */
  answerAfterMs?: number
}

export interface WorkPayload extends Plan {
  workNumber: number
}

export function payloadText(workNumber: number, plan: Plan): string {
  // The big number and the odd spaces tell whether the bytes were ever written anew.
  return `{"workNumber": ${workNumber},  "plan":${JSON.stringify(plan)}, "big":12345678901234567890.0}`
}

/** null: not one of ours. */
export function readPayload(body: Buffer): WorkPayload | null {
  const match = /^\{"workNumber": (\d+), {2}"plan":(\{[^}]*\}),/.exec(body.toString())
  if (match === null) return null
  return { workNumber: Number(match[1]), ...(JSON.parse(match[2] as string) as Plan) }
}

/** SHA-256, hex. */
export function hashOf(bytes: Buffer | string): string {
  return createHash('sha256').update(bytes).digest('hex')
}
