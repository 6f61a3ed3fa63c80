// Types of endpoints in requests and responses. Shapes only.
import type { OnFinish, Outcome, Page, Retry } from './job.ts'

/** `per` is a duration, like 1m. */
export interface RateLimit {
  count: number
  per: string
}

/** The settings of an endpoint. Only `url` is required. */
export interface EndpointSettings {
  /** null: a pulled endpoint, whose workers use claim(). */
  url: string | null
  description?: string | undefined
  headers?: Record<string, string> | undefined
  timeout?: string | undefined
  retry?: Retry | undefined
  concurrency?: number | null | undefined
  rateLimit?: RateLimit | null | undefined
  /** Limits of each fairness key by itself. */
  perKey?: { concurrency?: number | null; rateLimit?: RateLimit | null } | null | undefined
  /** The names of limits that it shares with other endpoints. */
  limits?: string[] | undefined
  completion?: 'sync' | 'async' | undefined
  completionTimeout?: string | undefined
  secret?: string | undefined
  onFinish?: string | OnFinish | null | undefined
  circuitBreaker?: { failures?: number; cooldown?: string } | null | undefined
  /** Meanings of statuses 300 to 599, by status. `final`: the job becomes dead at once. */
  statuses?: Record<string, StatusChoice> | undefined
}

/**
 * A change of an endpoint. Absent fields stay as they are. null resets a field to its default,
 * unless null is a value of the field (`url`, `circuitBreaker`). In `retry` and `circuitBreaker`,
 * given parts replace the stored ones and the others stay.
 */
export type EndpointChange = {
  [Field in keyof EndpointSettings]?:
    | EndpointSettings[Field]
    | (Field extends 'secret' ? never : null)
}

type StatusChoice = 'retry' | 'final' | 'throttle'

type EndpointState = 'active' | 'paused' | 'disabled' | 'resting' | 'deleting'

export interface Endpoint {
  name: string
  url: string | null
  description: string
  /** Values are masked. */
  headers: Record<string, string>
  timeout: string
  retry: Retry
  concurrency: number | null
  rateLimit: RateLimit | null
  perKey: { concurrency: number | null; rateLimit: RateLimit | null } | null
  limits: string[]
  completion: 'sync' | 'async'
  completionTimeout: string
  onFinish: OnFinish | null
  circuitBreaker: { failures: number; cooldown: string } | null
  statuses: Record<string, StatusChoice>
  state: EndpointState
  disabledReason: string | null
  /** Until when the endpoint rests; null: it is not resting. */
  restingUntil: string | null
  counts: { queued: number; running: number; more?: boolean }
  secretHint: string
  /** The secret, only in the response that created it. */
  secret?: string
  createdAt: string
  updatedAt: string
  version: number
}

/** An endpoint of a list. */
export type ListedEndpoint = Omit<Endpoint, 'headers' | 'secretHint' | 'secret'> & {
  /** Values are masked. null: no key of the API decrypts them. */
  headers: Record<string, string> | null
  /** null: no key of the API decrypts the secret. */
  secretHint: string | null
}

/** A fairness key of an endpoint that has queued or running jobs. */
export interface FairnessKey {
  key: string
  /** Including due jobs. */
  queued: number
  due: number
  running: number
  /** A count of 10000 means more. */
  more?: true
  weight: number
  /** Its own limit, or that of `perKey` of the endpoint. */
  concurrency: number | null
  rateLimit: RateLimit | null
  paused: boolean
  /** When the rest ends that a throttled response began for this key alone. */
  restingUntil: string | null
}

/** A limit that is absent is that of `perKey` of the endpoint; null: no limit. */
export interface FairnessKeySettings {
  /** 1 to 100: the share of the key among those that take turns. 1 by default. */
  weight?: number | undefined
  concurrency?: number | null | undefined
  rateLimit?: RateLimit | null | undefined
  paused?: boolean | undefined
}

export interface StoredFairnessKey {
  key: string
  weight: number
  concurrency?: number | null
  rateLimit?: RateLimit | null
  paused: boolean
  /** When the rest ends that a throttled response began for this key alone. */
  restingUntil: string | null
  /** null: the key has no settings of its own. */
  updatedAt: string | null
  /** 0: the key has no settings of its own. */
  version: number
}

export interface FairnessKeyPage extends Page<FairnessKey> {
  /** With order `wait`: there are more than 10000 keys, and only so many were compared. */
  partial?: true
}

/** The settings of a limit that endpoints share. null: no limit, which is the default. */
export interface SharedLimitSettings {
  concurrency?: number | null | undefined
  rateLimit?: RateLimit | null | undefined
}

/** A limit of a list. */
export interface ListedSharedLimit {
  name: string
  concurrency: number | null
  rateLimit: RateLimit | null
  /** How many attempts of cost 1 the rate limit lets start now; null: it has none. */
  tokens: number | null
  /** The endpoints that have due jobs and wait for their turn, the next one first. */
  waiting: string[]
  createdAt: string
  updatedAt: string
  version: number
}

export interface SharedLimit extends ListedSharedLimit {
  /** The endpoints that name it. */
  endpoints: string[]
  /** Their running jobs; 10000 also means more. */
  running: number
}

/** The result of a test ping. */
export interface PingResult {
  outcome: Outcome
  statusCode: number | null
  durationMs: number
  errorCode: string | null
  message: string | null
  responseBody: string | null
}
