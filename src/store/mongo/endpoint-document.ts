// How endpoints are stored in MongoDB: the settings as given, with headers and secrets encrypted,
// and the state that attempts and claims write: health, rate bucket, admission.
import type { Limits } from '../../endpoint/admission.ts'
import type { Endpoint, EndpointSettings } from '../../endpoint/endpoint.ts'
import type { Ramp } from '../../endpoint/health.ts'
import { freeAt } from '../../endpoint/rate-bucket.ts'
import type { Lane } from '../../job/turns.ts'
import { keyIdOf, type SecretBox } from '../secret-box.ts'
import { Undecryptable } from '../store-errors.ts'

export interface EndpointDocument extends Omit<EndpointSettings, 'name' | 'headers'> {
  /** The name of the endpoint. */
  _id: string
  /** Encrypted JSON. */
  headers: string
  deleting: boolean
  deletingSince: Date | null
  paused: boolean
  disabledReason: 'gone' | null
  restingUntil: Date | null
  /** A rest that the breaker began ends when the breaker is removed. */
  restCause: 'breaker' | 'throttle' | null
  /** Consecutive rests by throttling: each is twice as long as the one before. */
  throttleStreak: number
  failureCount: number
  /** How far it has recovered from its rest; null: no attempt has succeeded since. */
  ramp: RampDocument | null
  /** Random at each write of the five fields above, and the guard of the next write. */
  healthId: string | null
  /** When the bucket of its rate limit is full again: epoch milliseconds, with fractions. */
  rateFullAt: number | null
  /**
   * The order of its fairness keys (turns.ts), by priority. Absent: no job of it has had a key. No
   * part of its version.
   */
  lanes?: Record<number, Lane>
  /** A fairness key of it has, or had, settings or a rest. */
  hasKeySettings?: true
  /** The claim that holds its admission (admission.ts); null: none. */
  admissionHolder: string | null
  admissionUntil: Date | null
  /** Newest first. */
  secrets: SealedSecret[]
  createdAt: Date
  updatedAt: Date
  version: number
}

type RampDocument = Omit<Ramp, 'endsAt'> & { endsAt: Date }

export interface SealedSecret {
  sealed: string
  /** The end of its overlap; null: it is the newest. */
  until: Date | null
}

/**
 * The fields that decide whether a claim may take jobs of the endpoint, and whether it needs its
 * admission.
 */
export const ELIGIBILITY = {
  deleting: 1,
  paused: 1,
  disabledReason: 1,
  restingUntil: 1,
  concurrency: 1,
  rateLimit: 1,
  perKey: 1,
  limits: 1,
  ramp: 1,
  rateFullAt: 1,
  lanes: 1,
  hasKeySettings: 1,
} as const

export type Eligibility = Pick<EndpointDocument, '_id' | keyof typeof ELIGIBILITY>

export function endpointOf(document: EndpointDocument, box: SecretBox, now: number): Endpoint {
  const name = document._id
  const { rateLimit, rateFullAt } = document
  return {
    name,
    url: document.url,
    description: document.description,
    ...opened(document, box, now),
    timeoutMs: document.timeoutMs,
    retry: document.retry,
    concurrency: document.concurrency,
    rateLimit,
    perKey: document.perKey,
    limits: document.limits,
    completion: document.completion,
    completionTimeoutMs: document.completionTimeoutMs,
    onFinish: document.onFinish,
    circuitBreaker: document.circuitBreaker,
    statuses: document.statuses,
    deleting: document.deleting,
    paused: document.paused,
    disabledReason: document.disabledReason,
    ...restOf(document),
    failureCount: document.failureCount,
    rateFreeAt: rateLimit === null ? null : freeAt(rateLimit, rateFullAt, now),
    keyId: keyIdOf(document.secrets[0]?.sealed ?? ''),
    createdAt: document.createdAt.getTime(),
    updatedAt: document.updatedAt.getTime(),
    version: document.version,
  }
}

function opened(
  document: EndpointDocument,
  box: SecretBox,
  now: number,
): Pick<Endpoint, 'headers' | 'secrets' | 'undecryptable'> {
  const open = (sealed: string) => box.open(sealed, document._id)
  try {
    const headers = JSON.parse(open(document.headers)) as Record<string, string>
    const secrets = validSecrets(document, now).map(({ sealed }) => open(sealed))
    return { headers, secrets, undecryptable: null }
  } catch (error) {
    if (!(error instanceof Undecryptable)) throw error
    return { headers: {}, secrets: [], undecryptable: error.message }
  }
}

export function settingsFields(settings: EndpointSettings, box: SecretBox) {
  const { name, headers, ...rest } = settings
  return { ...rest, headers: box.seal(JSON.stringify(headers), name) }
}

/** The secrets whose overlap has not ended, newest first. */
export function validSecrets({ secrets }: EndpointDocument, now: number): SealedSecret[] {
  return secrets.filter(({ until }) => until === null || until.getTime() > now)
}

export function restOf({
  restingUntil,
  ramp,
}: Pick<EndpointDocument, 'restingUntil' | 'ramp'>): Pick<Endpoint, 'restingUntil' | 'ramp'> {
  return {
    restingUntil: restingUntil?.getTime() ?? null,
    ramp: ramp && { slots: ramp.slots, endsAt: ramp.endsAt.getTime() },
  }
}

/** The limits of the endpoint, as src/endpoint/admission.ts needs them. */
export function limitsOf(document: Eligibility): Limits {
  const { concurrency, rateLimit, rateFullAt } = document
  return { concurrency, rateLimit, rateFullAt, ...restOf(document) }
}
