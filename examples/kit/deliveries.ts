// Handles a delivery: verifies it, refuses a stale attempt, returns the stored result of a job that
// is done, and otherwise does the work, within the request or after a 202.
import type { IncomingMessage, ServerResponse } from 'node:http'
// In a project of your own: install the package (docs/client.md), import from 'posthorn/client'.
import { type Delivery, type Posthorn, VerificationError, verify } from '../../src/client/client.ts'
import { type Ledger, StaleAttempt } from './ledger.ts'

/** Sends a heartbeat with the progress. Does nothing if the work is done within the request. */
export type ReportProgress = (beat: { progress?: number; message: string }) => Promise<void>
/** Does the work and records it in the ledger. The result becomes that of the job. */
export type Work<Payload> = (
  delivery: Delivery<Payload>,
  reportProgress: ReportProgress,
) => Promise<unknown>

type Verb = 'completeUrl' | 'failUrl' | 'heartbeatUrl'

export interface Receiving<Payload> {
  secret: string
  posthorn: Posthorn
  ledger: Ledger
  work: Work<Payload>
}

export async function receive<Payload>(
  request: IncomingMessage,
  response: ServerResponse,
  { secret, posthorn, ledger, work }: Receiving<Payload>,
): Promise<void> {
  try {
    const delivery = await verify<Payload>(request, secret)
    if (delivery.isTest) return respond(response, 200, {})
    const begun = ledger.begin(delivery.jobId, delivery.fence)
    if (begun === 'stale') return respond(response, 409, { error: 'a newer attempt has begun' })
    if (begun !== 'begun') return respond(response, 200, begun.result)
    if (delivery.completeUrl === null) {
      return respond(response, 200, await work(delivery, async () => {}))
    }
    // If this process dies now, Posthorn misses the heartbeat and delivers the job again.
    respond(response, 202, {})
    await workAndReport(delivery, posthorn, work)
  } catch (error) {
    if (error instanceof VerificationError) return respond(response, 401, { error: error.code })
    if (error instanceof StaleAttempt) return respond(response, 409, { error: error.message })
    console.error(error)
    respond(response, 500, { error: String(error) })
  }
}

async function workAndReport<Payload>(
  delivery: Delivery<Payload>,
  posthorn: Posthorn,
  work: Work<Payload>,
): Promise<void> {
  // Each delivery of an endpoint with async completion has all three URLs.
  const { completeUrl, failUrl, heartbeatUrl } = delivery as Delivery & Record<Verb, string>
  try {
    const result = await work(delivery, async (beat) => {
      const { cancelRequested } = await posthorn.heartbeat(heartbeatUrl, beat)
      if (cancelRequested) throw new Error('the job was cancelled')
    })
    await posthorn.complete(completeUrl, result)
  } catch (error) {
    console.log(`${delivery.endpoint}, attempt ${delivery.attempt}: ${error}`)
    // Posthorn refuses this report if the attempt is over, for example if another one has the job.
    await posthorn.fail(failUrl, { message: String(error) }).catch(console.log)
  }
}

export function respond(response: ServerResponse, status: number, body: unknown): void {
  if (response.headersSent) return
  response.writeHead(status, { 'content-type': 'application/json' })
  response.end(JSON.stringify(body))
}
