// What delivery costs with no queue at all: sign and send, 50 connections. Argument: the sink's
// port.
import { Agent, request } from 'undici'
import { newSecret } from '../src/endpoint/endpoint.ts'
import { newJobId } from '../src/job/job-id.ts'
import { signatureHeader } from '../src/webhook/signature.ts'
import { CONNECTIONS, PAYLOAD } from './load.ts'

const [port, count] = process.argv.slice(2).map(Number)
const agent = new Agent({ connections: CONNECTIONS, pipelining: 1 })
const secrets = [newSecret()]
const body = Buffer.from(PAYLOAD)
let left = count as number

async function sendUntilDone(): Promise<void> {
  while (left-- > 0) {
    const id = newJobId(Date.now())
    const timestamp = Math.floor(Date.now() / 1000)
    const { body: answer } = await request(`http://127.0.0.1:${port}/`, {
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
    await answer.dump()
  }
}

await Promise.all(Array.from({ length: CONNECTIONS }, sendUntilDone))
process.send?.({ cpuUs: cpuUs() / (count as number) })
await agent.close()
process.disconnect?.()

function cpuUs(): number {
  const { user, system } = process.cpuUsage()
  return user + system
}
