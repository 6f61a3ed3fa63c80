// GET /dashboard: the page and its files. The page uses only the public API.
import { readdirSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { findPackageJSON } from 'node:module'
import { dirname, extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { FastifyInstance } from 'fastify'
import { type PageFile, registerPage, SCRIPT_TYPE, STYLE_TYPE } from './page-files.ts'

/** The same folder for the sources and for dist/. */
const FOLDER = join(dirname(findPackageJSON(import.meta.url) as string), 'dashboard')

const TYPES: Record<string, string> = {
  '.js': SCRIPT_TYPE,
  '.css': STYLE_TYPE,
  '.svg': 'image/svg+xml',
}

/** Modules of packages, and the names under which this server offers them. */
const PACKAGES: Record<string, string> = {
  preact: 'preact.js',
  'preact/hooks': 'preact-hooks.js',
  htm: 'htm.js',
  'htm/preact': 'htm-preact.js',
}

export function registerDashboard(app: FastifyInstance): void {
  const own = readdirSync(FOLDER).filter((name) => TYPES[extname(name)] !== undefined)
  const files: Record<string, PageFile> = {
    ...Object.fromEntries(own.map((name) => [name, fromFolder(name)])),
    ...Object.fromEntries(
      Object.entries(PACKAGES).map(([specifier, name]) => [name, fromPackage(specifier)]),
    ),
  }
  registerPage(app, {
    path: '/dashboard',
    summary: 'The dashboard',
    html: pageOf(Object.keys(files).sort()),
    files,
    // Modules of two versions would not fit together, so browsers must revalidate them; they get
    // 304.
    cacheControl: 'no-cache',
  })
}

/** All modules are listed in the head. Otherwise a browser would discover them level by level. */
function pageOf(names: string[]): string {
  const linksTo = (end: string, rel: string) =>
    names
      .filter((name) => name.endsWith(end))
      .map((name) => `<link rel="${rel}" href="dashboard/${name}">`)
  // The first paint waits only for the styles.
  const links = [...linksTo('.css', 'stylesheet'), ...linksTo('.js', 'modulepreload')]
  return `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>Posthorn</title>
    <link rel="icon" href="dashboard/icon.svg" type="image/svg+xml">
    ${links.join('\n    ')}
  </head>
  <body>
    <noscript>This page needs JavaScript; the <a href="docs">API</a> can do the same.</noscript>
    <div id="dashboard">
      <header class="bar"><a class="brand" href="#/">Posthorn</a></header>
      <main><p class="faint">Reading …</p></main>
    </div>
    <script type="module" src="dashboard/main.js"></script>
  </body>
</html>
`
}

function fromFolder(name: string): PageFile {
  const path = join(FOLDER, name)
  const type = TYPES[extname(name)] as string
  if (type !== SCRIPT_TYPE) return { type, load: () => readFile(path) }
  return { type, load: async () => forBrowser(await readFile(path, 'utf8')) }
}

function fromPackage(specifier: string): PageFile {
  const path = fileURLToPath(import.meta.resolve(specifier))
  return { type: SCRIPT_TYPE, load: async () => forBrowser(await readFile(path, 'utf8')) }
}

/** Replaces the import map, which is an inline script and forbidden by our policy. */
function forBrowser(script: string): string {
  return script
    .replace(/(\bfrom\s*)(["'])([a-z/]+)\2/g, (found, from, quote, specifier) =>
      Object.hasOwn(PACKAGES, specifier)
        ? `${from}${quote}./${PACKAGES[specifier]}${quote}`
        : found,
    )
    .replace(/^\/\/# sourceMappingURL=.*$/m, '')
}
