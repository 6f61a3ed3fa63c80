// openapi.json in common tools: a linter, and generators of clients in three languages. Each tool
// comes from its registry. Without it, its test is skipped and says so.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'

const ROOT = join(import.meta.dirname, '../..')
const OPENAPI = join(ROOT, 'openapi/openapi.json')
const REDOCLY = '@redocly/cli@2.77.0'
const OPENAPI_TYPESCRIPT = 'openapi-typescript@7.13.0'
const OAPI_CODEGEN = 'github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2'
const OPENAPI_PYTHON_CLIENT = 'openapi-python-client==0.29.1'

const document = JSON.parse(readFileSync(OPENAPI, 'utf8'))
const operations = Object.entries<Record<string, { operationId: string }>>(document.paths).flatMap(
  ([path, methods]) =>
    Object.entries(methods).map(([method, { operationId }]) => ({ path, method, operationId })),
)

const folder = mkdtempSync(join(tmpdir(), 'posthorn-openapi-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function run(command: string, words: string[], env: Record<string, string> = {}) {
  const { status, stdout, stderr } = spawnSync(command, words, {
    cwd: folder,
    encoding: 'utf8',
    env: { ...process.env, ...env },
  })
  return { status, output: `${stdout}${stderr}` }
}

/** Whether the tool is available. If it is not, prints a sentence. */
function canHave(name: string, status: number | null): boolean {
  if (status !== 0)
    console.log(`skipped: ${name} cannot be had, so openapi.json is not tried on it`)
  return status === 0
}

const npx = (tool: string, words: string[]) => run('npx', ['--yes', tool, ...words])
const hasRedocly = canHave('redocly', npx(REDOCLY, ['--version']).status)
const hasTypes = canHave('openapi-typescript', npx(OPENAPI_TYPESCRIPT, ['--version']).status)

const bin = join(folder, 'bin')
const hasGo = canHave('oapi-codegen', run('go', ['install', OAPI_CODEGEN], { GOBIN: bin }).status)

const python = join(folder, 'venv/bin')
const venv = run('python3', ['-m', 'venv', join(folder, 'venv')]).status
const pip = venv === 0 ? run(join(python, 'pip'), ['install', '-q', OPENAPI_PYTHON_CLIENT]) : null
const hasPython = canHave('openapi-python-client', pip?.status ?? null)

describe('openapi.json', () => {
  it.skipIf(!hasRedocly)('passes the recommended rules of redocly without a warning', () => {
    const words = ['lint', '--extends', 'recommended', '--format', 'json', OPENAPI]
    const { status, output } = npx(REDOCLY, words)
    const { totals } = JSON.parse(/\{.*\}/s.exec(output)?.[0] ?? '{}')
    expect({ status, totals }, output).toMatchObject({
      status: 0,
      totals: { errors: 0, warnings: 0 },
    })
  })

  it.skipIf(!hasTypes)('becomes TypeScript types that hold, with every route', () => {
    const types = join(folder, 'api.d.ts')
    expect(npx(OPENAPI_TYPESCRIPT, [OPENAPI, '-o', types]).status).toBe(0)
    const uses = operations.map(
      ({ path, method }, i) => `export type U${i} = paths['${path}']['${method}']['responses']`,
    )
    const ping = `export type Ping = webhooks['testPing']['post']['requestBody']`
    const head = `import type { paths, webhooks } from './api.d.ts'`
    writeFileSync(join(folder, 'use.ts'), [head, ...uses, ping].join('\n'))
    const options = ['--noEmit', '--strict', '--target', 'es2022', '--module', 'nodenext']
    const tsc = join(ROOT, 'node_modules/.bin/tsc')
    const checked = run(tsc, [...options, '--allowImportingTsExtensions', 'use.ts'])
    expect(checked).toEqual({ status: 0, output: '' })
  })

  it.skipIf(!hasGo)('becomes a Go client that compiles, with every route', () => {
    writeFileSync(join(folder, 'go.mod'), 'module example.com/client\n\ngo 1.24\n')
    const file = join(folder, 'client.go')
    const words = ['-generate', 'types,client', '-package', 'client', '-o', file, OPENAPI]
    const generated = run(join(bin, 'oapi-codegen'), words)
    expect(generated.status, generated.output).toBe(0)
    expect(run('go', ['mod', 'tidy']).status).toBe(0)
    const built = run('go', ['build', '.'])
    expect(built, built.output).toMatchObject({ status: 0 })
    const text = readFileSync(file, 'utf8')
    const missing = operations.filter(
      ({ operationId: id }) =>
        !text.includes(`func (c *Client) ${id[0]?.toUpperCase()}${id.slice(1)}(`),
    )
    // For an operation with a body there are two methods. One of them has exactly this name.
    expect(missing.map(({ operationId }) => operationId)).toEqual([])
  })

  it.skipIf(!hasPython)('becomes a Python client that compiles, with every route', () => {
    const out = join(folder, 'python')
    const tool = join(python, 'openapi-python-client')
    const words = ['generate', '--path', OPENAPI, '--output-path', out, '--meta', 'none']
    const generated = run(tool, words)
    expect(generated.status, generated.output).toBe(0)
    expect(generated.output).not.toMatch(/will not be generated|WARNING parsing/)
    const modules = readdirSync(join(out, 'api'), { recursive: true })
      .map(String)
      .filter((name) => name.endsWith('.py') && !name.endsWith('__init__.py'))
    expect(modules).toHaveLength(operations.length)
    expect(run(join(python, 'python'), ['-m', 'compileall', '-q', out]).status).toBe(0)
    const load = `import importlib\nfor name in ${JSON.stringify(modules)}:\n  importlib.import_module('python.api.' + name[:-3].replace('/', '.'))`
    const imported = run(join(python, 'python'), ['-c', load])
    expect(imported, imported.output).toMatchObject({ status: 0 })
  })
})
