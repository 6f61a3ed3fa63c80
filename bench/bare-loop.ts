// Measures delivery without a queue: sign and send over 50 connections. The argument is the URL of
// the sink. For { send: n } it sends n requests and reports its CPU per job.
import { newJobId } from '../src/job/job-id.ts'
import { createSender } from './deliver.ts'
import { CONNECTIONS, PAYLOAD } from './load.ts'

const sender = createSender(process.argv[2] as string)

process.on('message', async ({ send: count }: { send: number }) => {
  let left = count
  async function sendUntilDone(): Promise<void> {
    while (left-- > 0) await sender.send(newJobId(Date.now()), PAYLOAD)
  }
  const before = process.cpuUsage()
  await Promise.all(Array.from({ length: CONNECTIONS }, sendUntilDone))
  const { user, system } = process.cpuUsage(before)
  process.send?.({ cpuUs: (user + system) / count })
})
process.once('disconnect', () => process.exit(0))
process.send?.({ ready: true })
