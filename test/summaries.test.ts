// The summaries at the top of the measurement pages agree with the tables below them.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'

const PAGES = ['docs/benchmarks.md', 'docs/reliability.md']
/** Figures of the summary that count rows of the tables. */
const COUNTED: Record<string, (tables: string) => Record<string, number>> = {
  'docs/benchmarks.md': (tables) => ({
    'misses its own goal': tables.match(/\| \*\*no\*\* \|/g)?.length ?? 0,
  }),
  'docs/reliability.md': (tables) => ({
    'the suite found': new Set(tables.match(/^\| `[a-z-]+`:/gm)).size,
  }),
}

describe.each(PAGES)('%s', (page) => {
  const text = readFileSync(join(import.meta.dirname, '..', page), 'utf8')
  const [, summary = ''] = /^## Summary$(.*?)^## /ms.exec(text) ?? []
  const tables = [...text.matchAll(/<!-- [\w ]+: made by .*?<!-- end of/gs)].join('\n')

  it('begins with a summary of about ten lines', () => {
    expect(text.indexOf('## Summary')).toBe(text.indexOf('\n## ') + 1)
    expect(summary.match(/^- /gm)?.length).toBeGreaterThanOrEqual(9)
    expect(summary.match(/^- /gm)?.length).toBeLessThanOrEqual(10)
  })

  it('has only figures in it that stand in its tables, or count their rows', () => {
    const counts = COUNTED[page]?.(tables) ?? {}
    for (const [words, count] of Object.entries(counts)) {
      expect(summary).toMatch(
        new RegExp(`${words.replaceAll(' ', '\\s+')}\\s+(all|in)\\s+${count}\\b`),
      )
    }
    const own = numbersIn(summary).filter((one) => !Object.values(counts).map(String).includes(one))
    expect(own.length).toBeGreaterThan(20)
    const known = new Set(numbersIn(tables))
    expect(own.filter((one) => !known.has(one))).toEqual([])
  })
})

/**
 * The numbers in a text, without commas between thousands. Numbers within a word, such as p99, do
 * not count.
 */
function numbersIn(text: string): string[] {
  const found = text.matchAll(/(?<![\w.])\d[\d,]*(?:\.\d+)*/g)
  return [...found].map(([digits]) => digits.replaceAll(',', ''))
}
