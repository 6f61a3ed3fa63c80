// What each header of a delivery means: the one list that the docs and openapi.json print. A test
// compares it with the requests that are sent.

/** Which requests carry a header. */
export type SentWith = 'all' | 'jobs' | 'schedules' | 'async' | 'traces' | 'pings'

export const DELIVERY_HEADERS: Record<string, { sentWith: SentWith; meaning: string }> = {
  'webhook-id': {
    sentWith: 'all',
    meaning: 'the id of the job, the same over all attempts; of a test ping one with `ping_`',
  },
  'webhook-timestamp': {
    sentWith: 'all',
    meaning: 'when this request was signed, in Unix seconds; new at each attempt',
  },
  'webhook-signature': {
    sentWith: 'all',
    meaning: '`v1,` and the signature in base64; one for each valid secret, separated by a space',
  },
  'idempotency-key': { sentWith: 'jobs', meaning: 'the id of the job' },
  'posthorn-endpoint': { sentWith: 'all', meaning: 'the name of the endpoint' },
  'posthorn-attempt': { sentWith: 'jobs', meaning: 'the number of this attempt, from 1' },
  'posthorn-attempts-left': {
    sentWith: 'jobs',
    meaning: 'how many attempts the job has left after this one',
  },
  'posthorn-fence': {
    sentWith: 'jobs',
    meaning: 'a number that grows with each attempt: store it with the work, refuse a smaller one',
  },
  'posthorn-hops': {
    sentWith: 'jobs',
    meaning: 'how many deliveries led to this one; beyond 10 an enqueue is refused',
  },
  'posthorn-scheduled-for': { sentWith: 'jobs', meaning: 'when the attempt was due' },
  'posthorn-deadline': {
    sentWith: 'all',
    meaning: 'when the worker gives this request up: an answer after it is not read',
  },
  'posthorn-schedule': { sentWith: 'schedules', meaning: 'the name of the schedule' },
  'posthorn-complete-url': { sentWith: 'async', meaning: 'where to report that the work is done' },
  'posthorn-fail-url': { sentWith: 'async', meaning: 'where to report that the work has failed' },
  'posthorn-heartbeat-url': {
    sentWith: 'async',
    meaning: 'where to report that the work goes on',
  },
  'posthorn-test': {
    sentWith: 'pings',
    meaning: '`true`: a test ping, which belongs to no job; do no work for it',
  },
  traceparent: { sentWith: 'traces', meaning: 'the trace of the attempt (W3C Trace Context)' },
  tracestate: { sentWith: 'traces', meaning: 'the state of that trace, if it has one' },
  'content-type': {
    sentWith: 'all',
    meaning: '`application/json`, unless the endpoint or the job sets another',
  },
  'user-agent': {
    sentWith: 'all',
    meaning: '`Posthorn/` and the version, unless the endpoint or the job sets another',
  },
  'accept-encoding': { sentWith: 'all', meaning: '`identity`: no compressed answer is wanted' },
}
