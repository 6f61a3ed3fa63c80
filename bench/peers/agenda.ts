// Agenda as a peer: a process of its own, on the same MongoDB as Posthorn, with a job that signs
// and sends.

import { setTimeout as sleep } from 'node:timers/promises'
import { MongoBackend } from '@agendajs/mongo-backend'
import { Agenda, type Job } from 'agenda'
import { MongoClient } from 'mongodb'
import { answerOrders, payload, peerWords, QUEUE } from './peer.ts'
import { AGENDA } from './settings.ts'

/** Agenda has no bulk insert: this many calls of `now` run at the same time. */
const INSERTS_AT_ONCE = 50
const LOOK_INTERVAL_MS = 20
/**
 * stop() does not stop a scan in progress, which would lock the jobs that are added next for ten
 * minutes. Nothing reports its end. A scan that finds nothing takes some milliseconds.
 */
const SCAN_ENDS_MS = 1_000

const { serverUrl, mode, sender } = peerWords()
const client = await MongoClient.connect(serverUrl)
const agenda = new Agenda({ backend: new MongoBackend({ mongo: client.db() }), ...AGENDA[mode] })
agenda.on('error', (error) => console.error(error))
await agenda.ready
agenda.define(QUEUE, async (job: Job<object>) => {
  await sender.send(String(job.attrs._id), JSON.stringify(job.attrs.data))
})

answerOrders({
  async enqueue(count) {
    let left = count
    async function addUntilDone(): Promise<void> {
      while (left-- > 0) await agenda.now(QUEUE, payload)
    }
    await Promise.all(Array.from({ length: INSERTS_AT_ONCE }, addUntilDone))
  },
  go: () => agenda.start(),
  // Not drain(): with removeOnComplete its last check comes before the last job is removed, and it
  // waits forever.
  async halt() {
    if (!agenda.isActiveJobProcessor()) return
    while ((await agenda.getRunningStats()).runningJobs !== 0) await sleep(LOOK_INTERVAL_MS)
    await agenda.stop(false)
    await sleep(SCAN_ENDS_MS)
  },
})
