// The token that authorizes a handler's reports about its attempt: fence, lease id, and a MAC that
// binds both to the job. The MAC distinguishes an old token from a forged one without a record of
// issued tokens.
import { createHmac, timingSafeEqual } from 'node:crypto'
import type { Lease } from '../job/job.ts'

/** The part of a lease that a token proves. The endpoint is read with the job. */
export type ProvenLease = Omit<Lease, 'endpoint'>

/** 128 bits, as RFC 2104, section 5 allows: half of the digest. */
const MAC_BYTES = 16
const TOKEN_SHAPE = /^(\d{1,10})\.([A-Za-z0-9_-]{1,64})\.([A-Za-z0-9_-]{22})$/

/**
 * Creates and reads tokens. A MAC under the encryption key binds each to its job, fence and lease
 * id.
 */
export interface AttemptTokens {
  issue(lease: ProvenLease): string
  /** The lease that the token was issued for; null: it was never issued for this job. */
  read(jobId: string, token: string): ProvenLease | null
}

/** @param keys the encryption keys: `issue` uses the first, `read` tries all. */
export function createAttemptTokens(keys: Buffer[]): AttemptTokens {
  const [first] = keys
  if (first === undefined) throw new Error('attempt tokens need a key')
  return {
    issue({ jobId, fence, leaseId }) {
      const mac = macOf(first, jobId, fence, leaseId).toString('base64url')
      return `${fence}.${leaseId}.${mac}`
    },
    read(jobId, token) {
      const [, fenceText, leaseId, macText] = TOKEN_SHAPE.exec(token) ?? []
      if (fenceText === undefined || leaseId === undefined || macText === undefined) return null
      const fence = Number(fenceText)
      const mac = Buffer.from(macText, 'base64url')
      const isOurs = keys.some((key) => timingSafeEqual(macOf(key, jobId, fence, leaseId), mac))
      return isOurs ? { jobId, fence, leaseId } : null
    },
  }
}

function macOf(key: Buffer, jobId: string, fence: number, leaseId: string): Buffer {
  return createHmac('sha256', key)
    .update(`posthorn attempt token\n${jobId}\n${fence}\n${leaseId}`)
    .digest()
    .subarray(0, MAC_BYTES)
}
