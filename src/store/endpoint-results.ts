// What the store is told about endpoints, and what it answers.
import type { Endpoint } from '../endpoint/endpoint.ts'

export interface EndpointCounts {
  queued: number
  running: number
  more: boolean
}

/** What happened to an endpoint since the last report, in this order. */
export interface HealthReport {
  endpoint: string
  /** An attempt succeeded or was accepted: what was counted before is forgotten, a rest ends. */
  reset: boolean
  /** Failed attempts after that which its circuit breaker counts. */
  failures: number
  /** Throttled answers: `until` is the instant that was named, null if none was. */
  throttle: { until: number | null } | null
  /** Answered 410 to an attempt that began with this version: it is disabled if it still is. */
  goneAtVersion: number | null
}

export type PutEndpointResult =
  | { kind: 'created' | 'replaced'; endpoint: Endpoint }
  /** null: `ifVersion` was given and there is no such endpoint. */
  | { kind: 'stale'; version: number | null }
  | { kind: 'being_deleted' }

export type DeleteEndpointResult =
  | { kind: 'deleted' | 'deleting' | 'not_found' }
  | { kind: 'in_use'; counts: EndpointCounts; scheduleName: string | null }
  | { kind: 'stale'; version: number }
