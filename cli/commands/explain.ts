// posthorn explain: prints why a job is not running, and when that may change.
import { action, JSON_OPTION } from '../command.ts'
import { inCommandWords } from '../command-words.ts'
import { EXIT } from '../exit.ts'
import { fromNow, printJson, printLine } from '../output.ts'
import { connect } from '../server.ts'
import { cleaned } from '../terminal-text.ts'

export const command = action({
  summary: 'Why a job is not running',
  arguments: ['ID'],
  options: { json: JSON_OPTION },
  examples: ['posthorn explain "$id"'],
  async run({ words: [id = ''], values }) {
    const explanation = await connect().explain(id)
    if (values.json === true) {
      printJson(explanation)
      return EXIT.done
    }
    const { state, reason, detail, expectedAt } = explanation
    printLine(`${state}, ${reason}: ${cleaned(inCommandWords(detail))}`)
    if (expectedAt !== null) printLine(`That may change ${fromNow(expectedAt)} (${expectedAt}).`)
    return EXIT.done
  },
})
