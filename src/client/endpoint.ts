// An endpoint on the wire, as a caller gives and reads it. Shapes only.
import type { OnFinish, Outcome, Retry } from './job.ts'

/** What a caller decides about an endpoint; only `url` is required. */
export interface EndpointSettings {
  /** null: its jobs are pulled with claim(), not sent. */
  url: string | null
  description?: string | undefined
  headers?: Record<string, string> | undefined
  timeout?: string | undefined
  retry?: Retry | undefined
  concurrency?: number | null | undefined
  rateLimit?: { count: number; per: string } | null | undefined
  completion?: 'sync' | 'async' | undefined
  completionTimeout?: string | undefined
  secret?: string | undefined
  onFinish?: string | OnFinish | null | undefined
  circuitBreaker?: { failures?: number; cooldown?: string } | null | undefined
  /** By status, 300 to 599: what an answer with it means; `final`: dead at once. */
  statuses?: Record<string, StatusChoice> | undefined
}

/**
 * What is to change of an endpoint; what is left out stays. null resets a field to its default,
 * where null is no value of its own (`url`, `circuitBreaker`). `retry` and `circuitBreaker`: parts
 * given replace parts.
 */
export type EndpointChange = {
  [Field in keyof EndpointSettings]?:
    | EndpointSettings[Field]
    | (Field extends 'secret' ? never : null)
}

export type StatusChoice = 'retry' | 'final' | 'throttle'

export type EndpointState = 'active' | 'paused' | 'disabled' | 'resting' | 'deleting'

export interface Endpoint {
  name: string
  url: string | null
  description: string
  /** Values are masked. */
  headers: Record<string, string>
  timeout: string
  retry: Retry
  concurrency: number | null
  rateLimit: { count: number; per: string } | null
  completion: 'sync' | 'async'
  completionTimeout: string
  onFinish: OnFinish | null
  circuitBreaker: { failures: number; cooldown: string } | null
  statuses: Record<string, StatusChoice>
  state: EndpointState
  disabledReason: string | null
  /** Of one that rests. */
  restingUntil: string | null
  counts: { queued: number; running: number; more?: boolean }
  secretHint: string
  /** Only in the answer that made it. */
  secret?: string
  createdAt: string
  updatedAt: string
  version: number
}

/** How a test ping went. */
export interface PingResult {
  outcome: Outcome
  statusCode: number | null
  durationMs: number
  errorCode: string | null
  message: string | null
  responseBody: string | null
}
