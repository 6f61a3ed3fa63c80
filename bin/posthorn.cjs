#!/usr/bin/env node
// The first file of the command: it looks at the version of Node before anything is loaded that an
// older Node cannot parse. No import here, and no syntax of after 2009.
var NEEDED_MAJOR = 24
var found = process.versions.node

if (parseInt(found, 10) >= NEEDED_MAJOR) {
  require('../dist/cli/posthorn.js')
} else {
  // biome-ignore lint/style/useTemplate: an older Node cannot parse a template
  process.stderr.write('Posthorn needs Node ' + NEEDED_MAJOR + ', this is v' + found + '.\n')
  process.exitCode = 2
}
