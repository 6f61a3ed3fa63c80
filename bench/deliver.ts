// One signed POST, as all senders of the benchmark make it, except Posthorn (src/webhook).
import { Agent, request } from 'undici'
import { newSecret } from '../src/endpoint/endpoint.ts'
import { signatureHeader } from '../src/webhook/signature.ts'
import { CONNECTIONS } from './load.ts'

export interface Sender {
  /** @param id of the job; the sink counts ids */
  send(id: string, body: Buffer | string): Promise<void>
  close(): Promise<void>
}

/** Throws if the status is not 200. */
export function createSender(url: string): Sender {
  const agent = new Agent({ connections: CONNECTIONS, pipelining: 1 })
  const secrets = [newSecret()]
  return {
    async send(id, text) {
      const body = Buffer.from(text)
      const timestamp = Math.floor(Date.now() / 1000)
      const { statusCode, body: reply } = await request(url, {
        dispatcher: agent,
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          'webhook-id': id,
          'webhook-timestamp': String(timestamp),
          'webhook-signature': signatureHeader(secrets, id, timestamp, body),
        },
        body,
      })
      await reply.dump()
      if (statusCode !== 200) throw new Error(`the sink responded with ${statusCode}`)
    },
    close: () => agent.close(),
  }
}
