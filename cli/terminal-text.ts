// What others wrote (a server, a proxy, a handler), made such that no terminal obeys it.
import { stripVTControlCharacters } from 'node:util'

/** In one line: no control character, no line break. */
export function cleaned(text: string): string {
  return stripVTControlCharacters(text).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, ' ')
}

/** The colours of shown.ts; what a terminal obeys or does not show, beside line ends and tabs. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: it begins every colour
const OBEYED = /(\u001b\[(?:2|22|3[12369])m)|(?![\n\t])\p{Cc}|[\p{Cf}\p{Zl}\p{Zp}]/gu

/** Several lines as they are, with our own colours: the last step before anything is printed. */
export function harmless(text: string): string {
  return text.replace(OBEYED, (_, colour: string | undefined) => colour ?? ' ')
}
