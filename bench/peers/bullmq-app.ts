// BullMQ behind HTTP. The argument is the URL of its Redis.
import { Queue } from 'bullmq'
import { serve } from './app.ts'
import { QUEUE } from './peer.ts'

const queue = new Queue(QUEUE, { connection: { url: process.argv[2] as string } })
await queue.waitUntilReady()
await serve(async (payload) => (await queue.add('job', payload)).id as string)
