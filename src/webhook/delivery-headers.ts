// What each header of a delivery means. The docs and openapi.json print this list, and a test
// compares it with the requests that are sent.

/** Which requests carry a header. */
export type SentWith = 'all' | 'jobs' | 'schedules' | 'async' | 'traces' | 'pings'

export const DELIVERY_HEADERS: Record<string, { sentWith: SentWith; meaning: string }> = {
  'webhook-id': {
    sentWith: 'all',
    meaning:
      'the id of the job, the same for all its attempts; a test ping has an id that begins with `ping_`',
  },
  'webhook-timestamp': {
    sentWith: 'all',
    meaning: 'when this attempt was signed, in Unix seconds',
  },
  'webhook-signature': {
    sentWith: 'all',
    meaning: '`v1,` and the signature in base64; one for each valid secret, separated by spaces',
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
    meaning:
      'a number that grows with each attempt; store it with the work and refuse a smaller one',
  },
  'posthorn-hops': {
    sentWith: 'jobs',
    meaning:
      'how many deliveries led to this one, itself included; beyond 10 an enqueue is refused',
  },
  'posthorn-scheduled-for': { sentWith: 'jobs', meaning: 'when the attempt was due' },
  'posthorn-deadline': {
    sentWith: 'all',
    meaning: 'when the worker stops waiting; a later response is not read',
  },
  'posthorn-schedule': { sentWith: 'schedules', meaning: 'the name of the schedule' },
  'posthorn-complete-url': { sentWith: 'async', meaning: 'where to report that the work is done' },
  'posthorn-fail-url': { sentWith: 'async', meaning: 'where to report that the work has failed' },
  'posthorn-heartbeat-url': {
    sentWith: 'async',
    meaning: 'where to report progress and extend the deadline',
  },
  'posthorn-test': {
    sentWith: 'pings',
    meaning: '`true`: a test ping that belongs to no job; the handler does no work',
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
  'accept-encoding': {
    sentWith: 'all',
    meaning: '`identity`: the response must not be compressed',
  },
}
