#!/usr/bin/env node
// The first file of the command: it looks at the version of Node before anything is loaded that an
// older Node cannot parse. No import here, and no syntax of after 2009.
var NEEDED_MAJOR = 24
var found = process.versions.node

// A clone has the source, and may have no build or an old one. A package has the build alone.
var SOURCE = '../cli/posthorn.ts'
var BUILD = '../dist/cli/posthorn.js'

function hasSource() {
  return require('node:fs').existsSync(require('node:path').join(__dirname, SOURCE))
}

if (parseInt(found, 10) >= NEEDED_MAJOR) {
  require(hasSource() ? SOURCE : BUILD)
} else {
  // biome-ignore lint/style/useTemplate: an older Node cannot parse a template
  process.stderr.write('Posthorn needs Node ' + NEEDED_MAJOR + ', this is v' + found + '.\n')
  process.exitCode = 2
}
