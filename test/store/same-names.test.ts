// The two stores have the same layout: a reader who knows where one store has something finds it in
// the other. The files of a store can be read one after another, because their imports form no
// circle.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { ENGINES, type Engine } from '../support/engines.ts'

const PROJECT = join(import.meta.dirname, '../..')
const STORE = join(PROJECT, 'src/store')

/** Files without a counterpart: their content concerns one database only. */
const OWN_FILES: Record<Engine, string[]> = {
  sqlite: [
    'backup.ts',
    'endpoint-row.ts',
    'fences.ts',
    'file-in-place.ts',
    'group-row.ts',
    'job-row.ts',
    'key-file.ts',
    'set-back.ts',
    'write-queue.ts',
  ],
  mongo: [
    'bodies.ts',
    'candidates.ts',
    'clock.ts',
    'endpoint-document.ts',
    'group-document.ts',
    'indexes.ts',
    'job-document.ts',
    'outbox.ts',
    'plan.ts',
  ],
}

/**
 * With the clock of MongoDB's servers, stored instants need no correction after the clock was set
 * back.
 */
const VERBS_OF_ONE_STORE = ['correctInstants']

/** Limit of files in a folder. */
const MAX_FILES = 42

/** The interface itself. The types below it in the same file have no methods. */
const [PORT = ''] =
  /^export interface Store \{\n.*?^\}/ms.exec(readFileSync(join(STORE, 'store.ts'), 'utf8')) ?? []
const VERBS = [...PORT.matchAll(/^ {2}(\w+)\(/gm)].map(([, verb]) => verb as string)

function filesOf(engine: Engine): string[] {
  return readdirSync(join(STORE, engine))
}

/** The file that exports a function of this name; null: none does. */
function fileOfVerb(engine: Engine, verb: string): string | null {
  const declaration = new RegExp(`^export (async )?function ${verb}\\b`, 'm')
  const found = filesOf(engine).find((file) =>
    declaration.test(readFileSync(join(STORE, engine, file), 'utf8')),
  )
  return found ?? null
}

test.each(ENGINES)('%s has no file that the other store lacks, but for those listed', (engine) => {
  const [other] = ENGINES.filter((one) => one !== engine)
  const others = new Set(filesOf(other as Engine))
  const own = filesOf(engine).filter((file) => !others.has(file))
  expect(own).toEqual(OWN_FILES[engine])
})

test('a verb is in a file of the same name in both stores', () => {
  expect(VERBS).toContain('enqueue')
  const apart = VERBS.filter((verb) => fileOfVerb('sqlite', verb) !== fileOfVerb('mongo', verb))
  expect(apart).toEqual(VERBS_OF_ONE_STORE)
})

describe.each(ENGINES)('%s', (engine) => {
  test('has few files', () => {
    expect(filesOf(engine).length).toBeLessThanOrEqual(MAX_FILES)
  })

  test('has no import circle among its files, not even of types', () => {
    const circles = filesOf(engine).filter((file) => {
      const reached = importsOf(engine, file, { types: true }).flatMap((one) => [
        ...closureOf(engine, one, { types: true }),
      ])
      return reached.includes(file)
    })
    expect(circles).toEqual([])
  })
})

describe('docs/ARCHITECTURE.md', () => {
  const architecture = readFileSync(join(PROJECT, 'docs/ARCHITECTURE.md'), 'utf8')

  test('lists the files of src/store/mongo that a claim needs at run time: at most 12', () => {
    const files = [...closureOf('mongo', 'claim.ts', { types: false })]
    expect(listedAfter(architecture, 'To understand `claim` on MongoDB').sort()).toEqual(
      files.sort(),
    )
    expect(files.length).toBeLessThanOrEqual(12)
  })

  test('lists the files from POST /jobs to the insert: at most 5', () => {
    const files = Object.keys(FROM_POST_TO_INSERT)
    expect(listedAfter(architecture, 'From `POST /jobs` to the insert')).toEqual(files)
    expect(files.length).toBeLessThanOrEqual(5)
    for (const [file, texts] of Object.entries(FROM_POST_TO_INSERT)) {
      const code = readFileSync(join(PROJECT, file), 'utf8')
      expect(texts.filter((text) => !code.includes(text))).toEqual([])
    }
  })
})

/** In each file, the calls that lead to the next file. */
const FROM_POST_TO_INSERT: Record<string, string[]> = {
  'routes/jobs/routes.ts': ['batcher.enqueue('],
  'routes/jobs/enqueue-batcher.ts': ['enqueue(job', 'store.enqueue('],
  'src/store/mongo/store.ts': ['async enqueue(jobs', ' enqueue(context, jobs, isMinimal)'],
  'src/store/mongo/enqueue.ts': [
    'export async function enqueue(',
    'newJobDocument(job',
    'context.jobs.insertMany(',
  ],
  'src/store/mongo/job-document.ts': ['export function newJobDocument('],
}

/** The files of the numbered list that follows this text. */
function listedAfter(markdown: string, text: string): string[] {
  const [, below = ''] = markdown.split(`\n${text}`)
  const [list = ''] = /(\n\d+\. .*)+/.exec(below) ?? []
  return [...list.matchAll(/\n\d+\. `([^`]+)`/g)].map(([, file]) => file as string)
}

/** The files of the same folder that a file imports. */
function importsOf(engine: Engine, file: string, { types }: { types: boolean }): string[] {
  const text = readFileSync(join(STORE, engine, file), 'utf8')
  const imports = text.matchAll(/^import (type )?[^']*from '\.\/([^']+)'/gm)
  return [...imports].flatMap(([, isType, name]) =>
    isType === undefined || types ? [name as string] : [],
  )
}

/** A file, and all files of the folder that it imports, directly or through others. */
function closureOf(
  engine: Engine,
  file: string,
  options: { types: boolean },
  seen = new Set<string>(),
): Set<string> {
  if (seen.has(file)) return seen
  seen.add(file)
  for (const one of importsOf(engine, file, options)) closureOf(engine, one, options, seen)
  return seen
}
