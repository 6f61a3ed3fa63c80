// Graphile Worker behind HTTP. The argument is the URL of its PostgreSQL.
import { Logger, makeWorkerUtils } from 'graphile-worker'
import { serve } from './app.ts'
import { QUEUE } from './peer.ts'

const utils = await makeWorkerUtils({
  connectionString: process.argv[2] as string,
  logger: new Logger(() => () => {}),
})
await utils.migrate()
await serve(async (payload) => (await utils.addJob(QUEUE, payload)).id)
