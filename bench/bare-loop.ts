// What delivery costs with no queue at all: sign and send, 50 connections. Arguments: the sink's
// URL, how many.
import { newJobId } from '../src/job/job-id.ts'
import { createSender } from './deliver.ts'
import { CONNECTIONS, PAYLOAD } from './load.ts'

const [url, amount] = process.argv.slice(2) as [string, string]
const sender = createSender(url)
const count = Number(amount)
let left = count

async function sendUntilDone(): Promise<void> {
  while (left-- > 0) await sender.send(newJobId(Date.now()), PAYLOAD)
}

const before = process.cpuUsage()
await Promise.all(Array.from({ length: CONNECTIONS }, sendUntilDone))
const { user, system } = process.cpuUsage(before)
process.send?.({ cpuUs: (user + system) / count })
await sender.close()
process.disconnect?.()
