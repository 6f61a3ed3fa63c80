// From a delivery to its answer: verified, refused when it is stale, answered from the ledger when
// its work is done already, and else worked on, within the request or after a 202.
import type { IncomingMessage, ServerResponse } from 'node:http'
// In a project of your own: install the package (docs/client.md), import from 'posthorn/client'.
import { type Delivery, type Posthorn, VerificationError, verify } from '../../src/client/client.ts'
import { type Ledger, StaleAttempt } from './ledger.ts'

/** What Posthorn is told while the work goes on; nothing within a request. */
export type Tell = (beat: { progress?: number; message: string }) => Promise<void>
/** Does the work and enters it in the ledger; its result becomes the job's. */
export type Work<Payload> = (delivery: Delivery<Payload>, tell: Tell) => Promise<unknown>

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
    if (delivery.isTest) return answer(response, 200, {})
    const begun = ledger.begin(delivery.jobId, delivery.fence)
    if (begun === 'stale') return answer(response, 409, { error: 'a newer attempt came' })
    if (begun !== 'begun') return answer(response, 200, begun.result)
    if (delivery.completeUrl === null) {
      return answer(response, 200, await work(delivery, async () => {}))
    }
    // If this process dies now, Posthorn misses the heartbeat and delivers the job again.
    answer(response, 202, {})
    await workAndReport(delivery, posthorn, work)
  } catch (error) {
    if (error instanceof VerificationError) return answer(response, 401, { error: error.code })
    if (error instanceof StaleAttempt) return answer(response, 409, { error: error.message })
    console.error(error)
    answer(response, 500, { error: String(error) })
  }
}

async function workAndReport<Payload>(
  delivery: Delivery<Payload>,
  posthorn: Posthorn,
  work: Work<Payload>,
): Promise<void> {
  // All three come with each delivery of an endpoint whose completion is async.
  const { completeUrl, failUrl, heartbeatUrl } = delivery as Delivery & Record<Verb, string>
  try {
    const result = await work(delivery, async (beat) => {
      const { cancelRequested } = await posthorn.heartbeat(heartbeatUrl, beat)
      if (cancelRequested) throw new Error('the job was cancelled')
    })
    await posthorn.complete(completeUrl, result)
  } catch (error) {
    console.log(`${delivery.endpoint}, attempt ${delivery.attempt}: ${error}`)
    // Refused when the attempt is over: then another has the job, and this one has no say.
    await posthorn.fail(failUrl, { message: String(error) }).catch(console.log)
  }
}

export function answer(response: ServerResponse, status: number, body: unknown): void {
  if (response.headersSent) return
  response.writeHead(status, { 'content-type': 'application/json' })
  response.end(JSON.stringify(body))
}
