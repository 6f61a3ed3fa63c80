// The payload of a job of a fault run: its number, and how the receiver must respond.
import { createHash } from 'node:crypto'

/** How the receiver responds, unless the round decides it. */
export interface Plan {
  /** This many attempts get a 500, counted by the header posthorn-attempt. */
  failures?: number
  /** How long a response takes. */
  answerAfterMs?: number
}

export interface WorkPayload extends Plan {
  workNumber: number
}

/** @param padding makes the payload larger */
export function payloadText(workNumber: number, plan: Plan, padding = ''): string {
  // The big number and the unusual spaces show whether the payload was serialized again.
  const more = padding === '' ? '' : `,"padding":"${padding}"`
  return `{"workNumber": ${workNumber},  "plan":${JSON.stringify(plan)}, "big":12345678901234567890.0${more}}`
}

/** Returns null if this is not a payload of the suite. */
export function readPayload(body: Buffer): WorkPayload | null {
  const match = /^\{"workNumber": (\d+), {2}"plan":(\{[^}]*\}),/.exec(body.toString())
  if (match === null) return null
  return { workNumber: Number(match[1]), ...(JSON.parse(match[2] as string) as Plan) }
}

/** The result of each job: one that JSON.parse would change. */
export function resultText(workNumber: number): string {
  return `{"number": ${numberText(workNumber)}, "of":${workNumber},  "amount":1.0}`
}

/** The field `number` of the result. */
export function numberText(workNumber: number): string {
  return `1844674407370955${workNumber}`
}

const BEFORE_PAYLOAD = '{"payload":'
const BEFORE_INPUTS = ',"inputs":'

/** Separates the payload from the inputs, of which no payload of the suite has the beginning. */
export function partsOf(body: Buffer): { payload: Buffer; inputs: string | null } {
  const at = body.lastIndexOf(BEFORE_INPUTS)
  if (at < 0 || !body.toString('utf8', 0, BEFORE_PAYLOAD.length).startsWith(BEFORE_PAYLOAD)) {
    return { payload: body, inputs: null }
  }
  return {
    payload: body.subarray(BEFORE_PAYLOAD.length, at),
    inputs: body.toString('utf8', at + BEFORE_INPUTS.length, body.length - 1),
  }
}

/** SHA-256, in hex. */
export function hashOf(bytes: Buffer | string): string {
  return createHash('sha256').update(bytes).digest('hex')
}
