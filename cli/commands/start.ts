// posthorn start: see ../start.ts.
import { action } from '../command.ts'
import { EXIT } from '../exit.ts'

export const command = action({
  summary: 'One API and one worker, restarted when they crash; reads .env',
  arguments: [],
  options: {},
  examples: ['PORT=9000 posthorn start'],
  async run() {
    const { start } = await import('../start.ts')
    await start()
    return EXIT.done
  },
})
