// Removes what a terminal would obey from text of others: a server, a proxy, a handler.
import { stripVTControlCharacters } from 'node:util'

/** Returns the text on one line, without control characters. */
export function cleaned(text: string): string {
  return stripVTControlCharacters(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, ' ')
}

/** The colours of output.ts, and all that a terminal obeys or hides, except line ends and tabs. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: it begins every colour
const OBEYED = /(\u001b\[(?:2|22|3[12369])m)|(?![\n\t])\p{Cc}|[\p{Cf}\p{Zl}\p{Zp}]/gu

/** Keeps line ends, tabs and the command's own colours: the last step before text is printed. */
export function harmless(text: string): string {
  return text.replace(OBEYED, (_, colour: string | undefined) => colour ?? ' ')
}
