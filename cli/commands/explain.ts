// posthorn explain: why a job is not running, and when that may change.
import { action, JSON_OPTION } from '../command.ts'
import { inCommandWords } from '../command-words.ts'
import { EXIT } from '../exit.ts'
import { connect } from '../server.ts'
import { cleaned, fromNow, say, sayJson } from '../shown.ts'

export const command = action({
  summary: 'Why a job is not running',
  arguments: ['ID'],
  options: { json: JSON_OPTION },
  examples: ['posthorn explain "$id"'],
  async run({ words: [id = ''], values }) {
    const explanation = await connect().explain(id)
    if (values.json === true) {
      sayJson(explanation)
      return EXIT.done
    }
    const { state, reason, detail, expectedAt } = explanation
    say(`${state}, ${reason}: ${cleaned(inCommandWords(detail))}`)
    if (expectedAt !== null) say(`That may change ${fromNow(expectedAt)} (${expectedAt}).`)
    return EXIT.done
  },
})
