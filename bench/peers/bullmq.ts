// BullMQ as a peer: a process of its own, with a Worker that signs and sends.
import { type Job, Queue, Worker } from 'bullmq'
import { answerOrders, bulks, payload, peerWords, QUEUE } from './peer.ts'
import { BULLMQ } from './settings.ts'

const { serverUrl, mode, sender } = peerWords()
const connection = { url: serverUrl }
const queue = new Queue(QUEUE, { connection })
let worker: Worker | null = null

async function deliver(job: Job): Promise<void> {
  await sender.send(job.id as string, JSON.stringify(job.data))
}

answerOrders({
  async enqueue(count) {
    for (const bulk of bulks(count, { name: 'job', data: payload })) await queue.addBulk(bulk)
  },
  async go() {
    worker = new Worker(QUEUE, deliver, { connection, ...BULLMQ[mode] })
    await worker.waitUntilReady()
  },
  async halt() {
    await worker?.close()
    worker = null
  },
})
