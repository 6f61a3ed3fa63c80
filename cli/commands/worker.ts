// posthorn worker: runs a worker process (workers/).
import { readConfig } from '../../src/config.ts'
import { action } from '../command.ts'
import { EXIT } from '../exit.ts'
import { notifyParent } from '../parent.ts'

export const command = action({
  summary: 'A worker: claims, delivers, settles',
  arguments: [],
  options: {},
  examples: ['WORKER_CONCURRENCY=20 posthorn worker'],
  async run() {
    const { startWorker } = await import('../../workers/main.ts')
    notifyParent({ workerId: await startWorker(readConfig(process.env)) })
    return EXIT.done
  },
})
