// pg-boss as a peer: a process of its own, with workers that sign and send whole batches.
import { PgBoss } from 'pg-boss'
import { answerOrders, bulks, payload, peerWords, QUEUE } from './peer.ts'
import { PG_BOSS } from './settings.ts'

const { serverUrl, sender } = peerWords()
const boss = new PgBoss({ connectionString: serverUrl, ...PG_BOSS.best.instance })
boss.on('error', (error) => console.error(error))
await boss.start()
await boss.createQueue(QUEUE, PG_BOSS.best.queue)

answerOrders({
  async enqueue(count) {
    for (const bulk of bulks(count, { data: payload })) await boss.insert(QUEUE, bulk)
  },
  async go() {
    await boss.work(QUEUE, PG_BOSS.best.work, async (jobs) => {
      await Promise.all(jobs.map(({ id, data }) => sender.send(id, JSON.stringify(data))))
    })
  },
  halt: () => boss.offWork(QUEUE),
})
