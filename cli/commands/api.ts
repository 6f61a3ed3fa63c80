// posthorn api: the process of routes/.
import { readConfig } from '../../src/config.ts'
import { action } from '../command.ts'
import { EXIT } from '../exit.ts'
import { tellParent } from '../parent.ts'

export const command = action({
  summary: 'The API: checks, stores, answers',
  arguments: [],
  options: {},
  examples: ['PORT=9000 posthorn api'],
  async run() {
    const { startApi } = await import('../../routes/server.ts')
    tellParent({ url: await startApi(readConfig(process.env)) })
    return EXIT.done
  },
})
