// posthorn get: prints one job with its attempts.
import type { Job } from '../../src/client/client.ts'
import { action, JSON_OPTION } from '../command.ts'
import { exactJson } from '../exact-json.ts'
import { EXIT } from '../exit.ts'
import { jobText, printJob } from '../job-view.ts'
import { printJsonText } from '../output.ts'
import { connect, connectRaw } from '../server.ts'

export const command = action({
  summary: 'A job and its attempts',
  arguments: ['ID'],
  options: {
    payload: { type: 'boolean', help: 'only the payload, byte for byte unless on a terminal' },
    json: JSON_OPTION,
  },
  examples: ['posthorn get "$id"'],
  async run({ words: [id = ''], values }) {
    if (values.payload === true) {
      const posthorn = connect()
      // A payload can be any JSON. Only the job shows that the server is Posthorn.
      await posthorn.get(id)
      const payload = await posthorn.payload(id)
      if (process.stdout.isTTY) printJsonText(new TextDecoder().decode(payload))
      else process.stdout.write(payload)
      return EXIT.done
    }
    const text = await jobText(connectRaw(), id)
    if (values.json === true) printJsonText(text)
    else printJob(exactJson(text) as Job, new TextDecoder().decode(await connect().payload(id)))
    return EXIT.done
  },
})
