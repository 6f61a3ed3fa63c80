// Graphile Worker as a peer: a process of its own, with a task that signs and sends.
import { Logger, makeWorkerUtils, type Runner, run, type Task } from 'graphile-worker'
import { answerOrders, bulks, payload, peerWords, QUEUE } from './peer.ts'
import { GRAPHILE } from './settings.ts'

const { serverUrl, mode, sender } = peerWords()
/** Does not log each job, as the other peers do not either. */
const logger = new Logger(() => () => {})
const utils = await makeWorkerUtils({ connectionString: serverUrl, logger })
await utils.migrate()
let runner: Runner | null = null

const deliver: Task = async (data, { job }) => {
  await sender.send(job.id, JSON.stringify(data))
}

answerOrders({
  async enqueue(count) {
    for (const bulk of bulks(count, { identifier: QUEUE, payload })) await utils.addJobs(bulk)
  },
  async go() {
    runner = await run({
      ...{ taskList: { [QUEUE]: deliver }, noHandleSignals: true, logger },
      preset: { worker: { connectionString: serverUrl, ...GRAPHILE[mode] } },
    })
  },
  async halt() {
    await runner?.stop()
    runner = null
  },
})
