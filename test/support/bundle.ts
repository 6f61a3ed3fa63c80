// The posthorn command as one bundle of the source. To find and to link the modules takes more than
// half of the CPU time of a start, and a run of the tests starts two thousand processes.
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import http from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Plugin, rolldown } from 'rolldown'
import { BUNDLE, runPosthorn } from './process.ts'

const ROOT = join(import.meta.dirname, '../..')
/** What the command reads beside its code. */
const FILES = ['package.json', 'dashboard', 'openapi', 'node_modules']

/**
 * To import node:http reads all of its exports, and three of them load the whole of fetch(), which
 * servers do not use: a tenth of the CPU time of a start.
 */
const FETCHED = ['WebSocket', 'CloseEvent', 'MessageEvent']
const LAZY_HTTP: Plugin = {
  name: 'lazy-http',
  resolveId: (id) => (id === 'node:http' || id === 'http' ? '\0lazy-http' : null),
  load(id) {
    if (id !== '\0lazy-http') return null
    const names = Object.keys(Object.getOwnPropertyDescriptors(http))
    return `const http = process.getBuiltinModule('node:http')
      export default http
      export const { ${names.filter((name) => !FETCHED.includes(name)).join(', ')} } = http`
  },
}

/**
 * The bundle consists of CommonJS modules, which have no import.meta.resolve(). To link ES modules,
 * and to read spaces and comments, takes a seventh of the CPU time of a start.
 */
const RESOLVE = {
  file: 'resolve.mjs',
  text: 'export const resolve = (name) => import.meta.resolve(name)',
  banner: "const resolveImport = (name) => require('./resolve.mjs').resolve(name)",
}

/**
 * Makes the bundle. From now on posthornScript() is in it, also in the processes that this one
 * starts. Returns what removes it.
 */
export async function bundleCommand(storeUrl: string): Promise<() => Promise<void>> {
  const folder = await mkdtemp(join(tmpdir(), 'posthorn-bundle-'))
  // The path of an installed package: a response with a stack trace is found by its node_modules.
  const home = join(folder, 'node_modules', 'posthorn')
  await mkdir(home, { recursive: true })
  for (const name of FILES) await symlink(join(ROOT, name), join(home, name))
  // Only spaces and comments are removed. To shake or to compress the code removes calls that are
  // there for their errors, like that of decodeURIComponent.
  const bundle = await rolldown({
    input: join(ROOT, 'cli/posthorn.ts'),
    platform: 'node',
    treeshake: false,
    logLevel: 'silent',
    plugins: [LAZY_HTTP],
    transform: { define: { 'import.meta.resolve': 'resolveImport' } },
  })
  const { output } = await bundle.write({
    ...{ dir: join(home, 'cli'), format: 'cjs', banner: RESOLVE.banner },
    ...{ entryFileNames: '[name].cjs', chunkFileNames: '[name]-[hash].cjs' },
    minify: { compress: false, mangle: false, codegen: { removeWhitespace: true } },
  })
  await bundle.close()
  await writeFile(join(home, 'cli', RESOLVE.file), RESOLVE.text)
  process.env[BUNDLE.cli] = join(home, 'cli', output[0].fileName)
  process.env[BUNDLE.cache] = join(folder, 'compile-cache')
  await fillCache(storeUrl)
  return async () => {
    delete process.env[BUNDLE.cli]
    delete process.env[BUNDLE.cache]
    await rm(folder, { recursive: true, force: true })
  }
}

/** Node writes the cache of compiled code at a clean exit, and most tests kill their processes. */
async function fillCache(storeUrl: string): Promise<void> {
  const env = { STORE_URL: storeUrl, ENCRYPTION_KEY: Buffer.alloc(32, 1).toString('base64') }
  const api = runPosthorn(['api'], { ...env, PORT: '0' })
  await api.logged('api.listening')
  const worker = runPosthorn(['worker'], env)
  await worker.logged('worker.started')
  await Promise.all([api.stop(), worker.stop()])
}
