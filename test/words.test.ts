// Text that users see is plain technical English: words that confuse newcomers must not come back.
// docs/glossary.md has the words of the domain.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { JOB_STATES } from '../src/job/job.ts'

const ROOT = join(import.meta.dirname, '..')

/** The beginning of a clause after ", for" where that means "because": a subject, then a verb. */
const SUBJECT = 'it|they|its|their|there|this|that|these|those|the|an?|no|one|each|what|nothing'
const VERB = 'is|are|was|were|has|have|had|does|do|did|can|may|must|will|would|could|cannot'

/** The banned words, by what to write instead. */
const BANNED: Record<string, RegExp> = {
  'says, reports, knows': /\b(is|are|was|were|be|been) told\b|\btold of\b|\bnobody is told\b/i,
  'reports about itself': /\btells of\b/i,
  'blocked, delayed': /\bheld back\b/i,
  'due, pending': /\bowe[ds]?\b/i,
  'fix, repair': /\bmend(s|ed|ing)?\b/i,
  'again, new': /\banew\b/i,
  expired: /\blapsed?\b/i,
  'check, decide': /\bjudge[ds]?\b/i,
  'which, that': /\bwhom\b/i,
  'name the actor': /\b(whoever|somebody|nobody|anybody)\b/i,
  because: new RegExp(
    `, for (${SUBJECT})\\b((?!\\b(that|which|whose|where)\\b)[^,.;:|])*?\\b(${VERB})\\b`,
    'i',
  ),
  'No jobs match': /\b(job|endpoint|one) is so\b/i,
  'must be, will be': /\b(is|are|was|were) to be\b/i,
  cannot: /\bcan not\b/i,
  unknown: /\bnothing is known\b/i,
  'the outcome': /\b(became|becomes?) of (it|them|each|one|a|the)\b/i,
  'retry together': /\bfailed together parts?\b/i,
  'filled its share': /\ball (it|they) (was|were) asked for\b/i,
  'duplicate key': /\bstands? twice\b/i,
  'responds, gets a response':
    /\b(is|are|was|were|be) answered\b|\b(not|server|endpoint) answers?\b/i,
  'at its concurrency limit': /\bunder way for others\b/i,
  'last heartbeat': /\bsigns? of life\b/i,
  'make dead': /\b(bury|buries) (it|them)\b/i,
  message: /\bwhat was said\b/i,
  cancel: /\bleave it as it is\b/i,
  'Filter endpoints': /\bname holds\b/i,
}

/** Files that still contain such words: none. A new one needs a reason here. */
const STILL_BREAK: string[] = []

const listed = (...patterns: string[]) =>
  execFileSync('git', ['ls-files', '-co', '--exclude-standard', ...patterns], { cwd: ROOT })
    .toString()
    .split('\n')
    .filter((file) => file !== '')

const files = [
  ...listed('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'docs/*.md', 'examples/*.md'),
  'openapi/openapi.json',
  // The strings in these files are details of the API, log lines and help. The other files have
  // such words only in names of fields and files, and in comments of SQL.
  ...listed(...['cli/*.ts', 'dashboard/*.js', 'routes/*.ts', 'workers/*.ts', 'src/*.ts']),
  ...listed('examples/*.ts', 'examples/*.py', 'examples/*.go', 'examples/*.java'),
]

function problemsOf(file: string): string[] {
  const text = readFileSync(join(ROOT, file), 'utf8')
  const seen = /\.(ts|js|py|go|java)$/.test(file)
    ? stringsOf(text)
    : text.replaceAll(/`[^`\n]*`/g, '…')
  return seen.split('\n').flatMap((line) =>
    Object.entries(BANNED).flatMap(([better, words]) => {
      const found = words.exec(line)
      return found === null ? [] : [`"${found[0]}" → ${better}: ${line.trim().slice(0, 120)}`]
    }),
  )
}

/** The literals of a program, one on each line, without the code in templates. */
function stringsOf(code: string): string {
  const withoutComments = code.replaceAll(/^\s*(\/\/|\*|\/\*).*$/gm, '')
  const literals = withoutComments.matchAll(/'(?:[^'\\\n]|\\.)*'|"[^"\n]*"|`(?:[^`\\]|\\.)*`/g)
  return [...literals].map(([literal]) => literal.replaceAll(/\$\{[^{}]*\}/g, '…')).join('\n')
}

describe.each(files.filter((file) => !STILL_BREAK.includes(file)))('%s', (file) => {
  it('holds none of the words that readers stumble over', () => {
    expect(problemsOf(file)).toEqual([])
  })
})

it('only files that still hold such words are listed as exceptions', () => {
  expect(STILL_BREAK.filter((file) => problemsOf(file).length === 0)).toEqual([])
  expect(STILL_BREAK.filter((file) => !files.includes(file))).toEqual([])
})

/** All programs: their comments must not contain these words either. */
const programs = listed(
  ...['src/*.ts', 'routes/*.ts', 'workers/*.ts', 'cli/*.ts', 'dashboard/*.js', 'bench/*.ts'],
  ...['docs/*.ts', 'openapi/*.ts', 'examples/*.ts', 'test/*.ts'],
  // This file names the words.
  ':!test/words.test.ts',
)

/**
 * The comments of a program as one line, so that words at the end of a line are found, too. A bar
 * separates comments and their tags.
 */
function commentsOf(code: string): string {
  const lines = code.matchAll(/^\s*(?:\/\/|\/\*\*?|\*)(.*)$/gm)
  const text = [...lines].map(([, line]) => line?.trim()).join(' ')
  return text.replaceAll(/ \/ |@/g, ' | ')
}

it.each(programs)('the comments of %s hold none of them either', (file) => {
  const comments = commentsOf(readFileSync(join(ROOT, file), 'utf8'))
  const found = Object.values(BANNED).flatMap((words) => words.exec(comments)?.[0] ?? [])
  expect(found).toEqual([])
})

describe('docs/glossary.md', () => {
  const glossary = readFileSync(join(ROOT, 'docs/glossary.md'), 'utf8')
  const tables = glossary
    .split('\n## ')
    .map((section) =>
      [...section.matchAll(/^\| \*\*(.+?)\*\* \|/gm)].map(([, word]) => word as string),
    )

  it('has each word once, in alphabetical order', () => {
    for (const words of tables) expect(words).toEqual([...words].sort())
    expect(new Set(tables.flat()).size).toBe(tables.flat().length)
  })

  it('has every state of a job', () => {
    expect(tables.flat()).toEqual(expect.arrayContaining([...JOB_STATES]))
  })
})
