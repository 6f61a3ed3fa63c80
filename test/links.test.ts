// Every link in the pages has a target, even after a file was moved.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, it } from 'vitest'

const ROOT = join(import.meta.dirname, '..')
const pages = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '*.md'], { cwd: ROOT })
  .toString()
  .split('\n')
  .filter((page) => page !== '' && existsSync(join(ROOT, page)))

describe.each(pages)('%s', (page) => {
  it('links only to files and headings that are there', () => {
    const text = readFileSync(join(ROOT, page), 'utf8')
    const targets = [...text.matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1] as string)
    const broken = targets.filter(
      (target) => !/^[a-z]+:/.test(target) && !leadsSomewhere(page, target),
    )
    expect(broken).toEqual([])
  })

  it('names only files of the code that are there', () => {
    const text = readFileSync(join(ROOT, page), 'utf8')
    const named = [...text.matchAll(/`([a-z]+\/[\w./-]*\.(?:ts|js|md|yml|json))`/g)]
    const ours = named.filter(([, file]) =>
      existsSync(join(ROOT, (file as string).split('/')[0] ?? '')),
    )
    const gone = ours.filter(([, file]) => !existsSync(join(ROOT, file as string)))
    expect(gone.map(([, file]) => file)).toEqual([])
  })
})

function leadsSomewhere(page: string, target: string): boolean {
  const [path, heading] = target.split('#')
  const file = path === '' ? join(ROOT, page) : join(ROOT, dirname(page), path as string)
  if (!existsSync(file)) return false
  return heading === undefined || headingsOf(readFileSync(file, 'utf8')).includes(heading)
}

/** The anchors that GitHub makes of headings. */
function headingsOf(text: string): string[] {
  return [...text.matchAll(/^#+ (.+)$/gm)].map((match) =>
    (match[1] as string)
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  )
}
