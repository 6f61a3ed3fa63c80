// posthorn api: runs the API process (routes/).
import { readConfig } from '../../src/config.ts'
import { action } from '../command.ts'
import { EXIT } from '../exit.ts'
import { notifyParent } from '../parent.ts'

export const command = action({
  summary: 'The API: validates, stores, responds',
  arguments: [],
  options: {
    'existing-store': {
      type: 'boolean',
      help: 'exit if the store does not exist or has an older schema',
    },
  },
  examples: ['PORT=9000 posthorn api'],
  async run({ values }) {
    const { startApi } = await import('../../routes/server.ts')
    notifyParent({
      url: await startApi(readConfig(process.env), { mayCreate: !values['existing-store'] }),
    })
    return EXIT.done
  },
})
