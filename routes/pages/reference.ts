// GET /docs: openapi.json as a page. This server serves everything that the page loads.
//
// Swagger UI comes from @fastify/swagger-ui: its copy has no install script that sends data home,
// and works under a policy without inline scripts. Its files are served by name, not by the plugin,
// which would add seven routes, a second copy of openapi.json and a page with inline styles.
import { readFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { FastifyInstance } from 'fastify'
import { type PageFile, registerPage, SCRIPT_TYPE, STYLE_TYPE } from './page-files.ts'

const PAGE = `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Posthorn API</title>
    <link rel="stylesheet" href="docs/swagger-ui.css">
    <link rel="icon" href="docs/favicon.png" type="image/png">
  </head>
  <body>
    <noscript>This page needs JavaScript; <a href="openapi.json">openapi.json</a> says the same.
    </noscript>
    <div id="reference"></div>
    <script src="docs/swagger-ui-bundle.js"></script>
    <script src="docs/start.js"></script>
  </body>
</html>
`

// validatorUrl is null because otherwise a badge would send the address of this server to
// swagger.io.
const START_SCRIPT = `SwaggerUIBundle({
  url: 'openapi.json',
  dom_id: '#reference',
  deepLinking: true,
  validatorUrl: null,
  docExpansion: 'list',
  defaultModelsExpandDepth: -1,
  presets: [SwaggerUIBundle.presets.apis],
  layout: 'BaseLayout',
})
`

export function registerReferencePage(app: FastifyInstance): void {
  registerPage(app, {
    path: '/docs',
    summary: 'The API reference as a web page',
    html: PAGE,
    files: {
      'swagger-ui.css': fromPackage('swagger-ui.css', STYLE_TYPE),
      'swagger-ui-bundle.js': fromPackage('swagger-ui-bundle.js', SCRIPT_TYPE),
      'favicon.png': fromPackage('favicon-32x32.png', 'image/png'),
      'start.js': { type: SCRIPT_TYPE, load: async () => START_SCRIPT },
    },
    cacheControl: 'public, max-age=3600',
  })
}

function fromPackage(name: string, type: string): PageFile {
  const folder = join(dirname(fileURLToPath(import.meta.resolve('@fastify/swagger-ui'))), 'static')
  return { type, load: () => readFile(join(folder, name)) }
}
