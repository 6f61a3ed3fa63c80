// What the store is told about endpoints, and what it answers.
import type { Endpoint } from '../endpoint/endpoint.ts'

export interface EndpointCounts {
  queued: number
  running: number
  more: boolean
}

export type PutEndpointResult =
  | { kind: 'created' | 'replaced'; endpoint: Endpoint }
  /** `ifVersion` is not met; null: there is no such endpoint. */
  | { kind: 'stale'; version: number | null }
  | { kind: 'being_deleted' }

export type DeleteEndpointResult =
  | { kind: 'deleted' | 'deleting' | 'not_found' }
  | { kind: 'in_use'; counts: EndpointCounts; scheduleName: string | null }
  | { kind: 'stale'; version: number }
