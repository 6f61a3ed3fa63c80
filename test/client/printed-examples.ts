// The programs that a page of docs/ prints, unchanged.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

const DOCS = join(import.meta.dirname, '../../docs')

/** The programs of docs/client.md, by the file names that the page gives them. */
export function clientExamples(): Map<string, string> {
  const page = readFileSync(join(DOCS, 'client.md'), 'utf8')
  const blocks = [...page.matchAll(/^```ts (\S+)\n(.*?)^```/gms)]
  return new Map(blocks.map(([, name, text]) => [name, text] as [string, string]))
}

/** The only block of a page in this language. */
export function exampleOf(page: string, language: string): string {
  const text = readFileSync(join(DOCS, page), 'utf8')
  const blocks = [...text.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, 'gms'))]
  if (blocks.length !== 1) throw new Error(`${page} has ${blocks.length} blocks in ${language}`)
  return blocks[0]?.[1] as string
}
