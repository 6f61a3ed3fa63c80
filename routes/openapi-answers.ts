// What each route may answer beside the successes its schema names: errors by code, headers, and
// successes without a JSON body. Compared with the routes by a test, both ways; what recorded
// answers of the tests hold is compared with what is described.
import { z } from 'zod'
import type { ErrorCode } from '../src/errors.ts'

/** A code with the status it has here, where that is not its own. */
export type ErrorAnswer = ErrorCode | { code: ErrorCode; status: number }

export interface OtherAnswers {
  /** Beside those that follow from the route's own schema (openapi.ts). */
  errors?: readonly ErrorAnswer[]
  /** By status. A schema of null: no body. */
  answers?: Record<number, { description: string; schema: z.ZodType | null }>
  /** By status, beside x-request-id, which all have. */
  headers?: Record<number, readonly HeaderName[]>
}

export const HEADERS = {
  'x-request-id': 'the request’s own, or one made for it; the log names it',
  etag: 'the version, for If-Match and If-None-Match',
  location: 'the path of the job',
  'retry-after': 'seconds to wait before the next try',
  'www-authenticate': 'always Bearer',
} as const
export type HeaderName = keyof typeof HEADERS

const UNKNOWN_ENDPOINT = { code: 'endpoint_not_found', status: 422 } as const
const ENQUEUE_ERRORS: ErrorAnswer[] = [
  'endpoint_disabled',
  'dedupe_conflict',
  'idempotency_key_reused',
  UNKNOWN_ENDPOINT,
  'overloaded',
]
const GONE = { 204: { description: 'done', schema: null } }
const NOT_MODIFIED = { 304: { description: 'not changed', schema: null } }
const COMPLETION: OtherAnswers = {
  errors: ['unauthorized', 'job_not_found', 'job_state_conflict', 'lease_lost'],
}

/** By method and path, as the routes are registered. */
export const OTHER_ANSWERS: Record<string, OtherAnswers> = {
  'GET /': { answers: { 200: { description: 'where to go on', schema: z.looseObject({}) } } },
  'GET /health/live': {
    answers: {
      200: { description: 'the process is alive', schema: z.object({ status: z.literal('ok') }) },
    },
  },
  'GET /health/ready': {
    answers: {
      200: { description: 'it can work', schema: health('ok') },
      503: {
        description: 'it cannot work: checks gives the reason',
        schema: health('unavailable'),
      },
    },
    headers: { 503: ['retry-after'] },
  },
  'GET /openapi.json': {
    answers: { 200: { description: 'this document', schema: z.looseObject({}) } },
  },
  'GET /docs': { headers: {} },
  'GET /dashboard': { headers: {} },
  'GET /metrics': {},
  'GET /stats': {},
  'GET /workers': {},

  'PUT /endpoints/:name': {
    errors: ['endpoint_in_use'],
    headers: { 200: ['etag'], 201: ['etag'] },
  },
  'PATCH /endpoints/:name': {
    errors: ['endpoint_not_found', 'endpoint_in_use', 'overloaded'],
    headers: { 200: ['etag'] },
  },
  'GET /endpoints': {},
  'GET /endpoints/:name': { errors: ['endpoint_not_found'], headers: { 200: ['etag'] } },
  'DELETE /endpoints/:name': {
    errors: ['endpoint_not_found', 'endpoint_in_use'],
    answers: {
      ...GONE,
      202: {
        description: 'its jobs are being buried, then it is gone',
        schema: z.object({ name: z.string(), state: z.literal('deleting') }),
      },
    },
  },
  'POST /endpoints/:name/pause': changeOfEndpoint(),
  'POST /endpoints/:name/resume': changeOfEndpoint(),
  'POST /endpoints/:name/rotate-secret': changeOfEndpoint(),
  'POST /endpoints/:name/test': { errors: ['endpoint_not_found', 'job_state_conflict'] },
  'POST /endpoints/:name/claim': { errors: ['endpoint_not_found', 'job_state_conflict'] },

  'POST /jobs': {
    errors: ENQUEUE_ERRORS,
    headers: { 200: ['etag', 'location'], 201: ['etag', 'location'] },
  },
  'POST /jobs/batch': { errors: ['overloaded'] },
  'GET /jobs': {},
  'GET /jobs/:id': {
    errors: ['job_not_found'],
    answers: NOT_MODIFIED,
    headers: { 200: ['etag'], 304: ['etag'] },
  },
  'GET /jobs/:id/payload': {
    errors: ['job_not_found'],
    answers: { 200: { description: 'the bytes of the payload', schema: z.unknown() } },
  },
  'PATCH /jobs/:id': {
    errors: ['job_not_found', 'job_state_conflict'],
    headers: { 200: ['etag'] },
  },
  'POST /jobs/:id/cancel': {
    errors: ['job_not_found', 'job_state_conflict'],
    headers: { 200: ['etag'] },
  },
  'POST /jobs/:id/retry': {
    errors: ['job_not_found', 'job_state_conflict', 'dedupe_conflict', UNKNOWN_ENDPOINT],
    headers: { 200: ['etag'] },
  },
  'POST /jobs/:id/copy': {
    errors: ['job_not_found', ...ENQUEUE_ERRORS],
    headers: { 201: ['etag', 'location'] },
  },
  'DELETE /jobs/:id': { errors: ['job_not_found', 'job_state_conflict'], answers: GONE },
  'GET /jobs/:id/explain': { errors: ['job_not_found'] },
  'POST /jobs/cancel': {},
  'POST /jobs/retry': {},
  'POST /jobs/:id/complete': COMPLETION,
  'POST /jobs/:id/fail': COMPLETION,
  'POST /jobs/:id/heartbeat': COMPLETION,

  'PUT /schedules/:name': {
    errors: [UNKNOWN_ENDPOINT, 'overloaded'],
    headers: { 200: ['etag'], 201: ['etag'] },
  },
  'GET /schedules': {},
  'GET /schedules/:name': { errors: ['schedule_not_found'], headers: { 200: ['etag'] } },
  'DELETE /schedules/:name': { errors: ['schedule_not_found'], answers: GONE },
  'POST /schedules/:name/pause': changeOfSchedule(),
  'POST /schedules/:name/resume': changeOfSchedule(),
  'POST /schedules/:name/run': {
    errors: ['schedule_not_found', ...ENQUEUE_ERRORS],
    headers: { 201: ['location'] },
  },

  'POST /keys': {},
  'GET /keys': {},
  'DELETE /keys/:id': { errors: ['not_found'], answers: GONE },
}

function health(status: string) {
  const checks = z.record(z.string(), z.string())
  return z.object({ status: z.literal(status), checks })
}

function changeOfEndpoint(): OtherAnswers {
  return { errors: ['endpoint_not_found', 'endpoint_in_use'], headers: { 200: ['etag'] } }
}

function changeOfSchedule(): OtherAnswers {
  return {
    errors: ['schedule_not_found', UNKNOWN_ENDPOINT, 'overloaded'],
    headers: { 200: ['etag'] },
  }
}
