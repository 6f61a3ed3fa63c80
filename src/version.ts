// The version of this package, read from package.json, its only source.
import { readFileSync } from 'node:fs'
import { findPackageJSON } from 'node:module'

const path = findPackageJSON(import.meta.url) as string

export const VERSION: string = JSON.parse(readFileSync(path, 'utf8')).version
