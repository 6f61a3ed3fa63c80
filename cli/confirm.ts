// The question before a command deletes something. A script answers it with --yes.
import { createInterface } from 'node:readline/promises'
import type { Option } from './command.ts'
import { CommandFailed, UsageError } from './exit.ts'

export const YES_OPTION = {
  type: 'boolean',
  help: 'do not ask for confirmation; required without a terminal',
} as const satisfies Option

/**
 * Resolves when the answer is yes.
 *
 * @param question without its question mark, such as `Delete the endpoint invoice-pdf`
 * @throws CommandFailed when the user does not confirm
 * @throws UsageError without a terminal
 */
export async function confirm(question: string, yes: boolean | undefined): Promise<void> {
  if (yes === true) return
  if (!process.stdin.isTTY || !process.stderr.isTTY) {
    throw new UsageError(`${question}? There is no terminal to ask on: add --yes.`)
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr })
  // The input may end without an answer.
  const closed = new Promise<string>((resolve) => terminal.once('close', () => resolve('')))
  const answer = await Promise.race([terminal.question(`${question}? [y/N] `), closed])
  terminal.close()
  if (!/^y(es)?$/i.test(answer.trim())) throw new CommandFailed('Nothing was deleted.')
}
