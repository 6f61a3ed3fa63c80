// posthorn worker: the process of workers/.
import { readConfig } from '../../src/config.ts'
import { action } from '../command.ts'
import { EXIT } from '../exit.ts'
import { tellParent } from '../parent.ts'

export const command = action({
  summary: 'A worker: claims, delivers, settles',
  arguments: [],
  options: {},
  examples: ['WORKER_CONCURRENCY=20 posthorn worker'],
  async run() {
    const { startWorker } = await import('../../workers/main.ts')
    // The two rooms do not know each other: what may be enqueued is handed over here.
    const loadRules = () => import('../../routes/outbox-request.ts')
    tellParent({ workerId: await startWorker(readConfig(process.env), loadRules) })
    return EXIT.done
  },
})
