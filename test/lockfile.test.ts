// The lock file: the hash of its content pins every package, all come from the registry, and only
// named packages may run scripts at install.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'

const ROOT = join(import.meta.dirname, '..')
const read = (name: string) => JSON.parse(readFileSync(join(ROOT, name), 'utf8'))
const manifest = read('package.json')
const lock = read('package-lock.json')

interface LockedPackage {
  version: string
  integrity?: string
  resolved?: string
  link?: boolean
  hasInstallScript?: boolean
}
const locked = Object.entries<LockedPackage>(lock.packages).filter(([path]) => path !== '')
const nameOf = (path: string) => path.slice(path.lastIndexOf('node_modules/') + 13)

describe('the lock file', () => {
  it('pins every package by a SHA-512 of its content', () => {
    const loose = locked.filter(
      ([, { integrity }]) => !/^sha512-[\w+/]{86}==$/.test(integrity ?? ''),
    )
    expect(loose.map(([path]) => path)).toEqual([])
    expect(locked.length).toBeGreaterThan(100)
  })

  it('names no place but the registry that npm is set to', () => {
    // A `resolved` would pin a host or a git repository, instead of the registry that npm is set
    // to.
    const elsewhere = locked.filter(([, one]) => one.resolved !== undefined || one.link === true)
    expect(elsewhere.map(([path]) => path)).toEqual([])
  })

  it('holds the versions that package.json names, to the digit', () => {
    const asked = { ...manifest.dependencies, ...manifest.devDependencies }
    for (const [name, version] of Object.entries(asked)) {
      expect(version, name).toMatch(/^\d+\.\d+\.\d+(-[\w.]+)?$/)
      expect(lock.packages[`node_modules/${name}`]?.version, name).toBe(version)
    }
  })

  it('lets only those run a script at install that package.json allows', () => {
    const running = locked.filter(([, { hasInstallScript }]) => hasInstallScript === true)
    const allowed = Object.entries(manifest.allowScripts)
      .filter(([, isAllowed]) => isAllowed === true)
      .map(([name]) => name)
    expect([...new Set(running.map(([path]) => nameOf(path)))].sort()).toEqual(allowed.sort())
  })
})
