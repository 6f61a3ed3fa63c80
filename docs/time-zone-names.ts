// Writes src/schedule/time-zone-names.ts from the IANA database of this machine: `npm run time-zones`
// or, for another copy, `npm run time-zones -- PATH/tzdata.zi`.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const TARGET = join(import.meta.dirname, '../src/schedule/time-zone-names.ts')
const LINE_LENGTH = 100
/** What a machine without a time zone says; no place has it, and Intl does not know it. */
const NO_ZONE = 'Factory'

const [, , source = '/usr/share/zoneinfo/tzdata.zi'] = process.argv
const lines = readFileSync(source, 'utf8').split('\n')
const version = /^# version (\S+)/.exec(lines[0] ?? '')?.[1]
if (version === undefined) throw new Error(`${source} does not say its version`)

// "Z name …" begins a zone, "L target name" is a link, of those in `backward` too.
const names = lines.flatMap((line) => {
  const [kind, first, second] = line.split(' ')
  if (kind === 'Z') return first ?? []
  return kind === 'L' ? (second ?? []) : []
})

const rows: string[] = []
let row = ''
for (const name of names.filter((one) => one !== NO_ZONE).sort()) {
  if (`${row} ${name}`.length > LINE_LENGTH) {
    rows.push(row)
    row = name
  } else row = row === '' ? name : `${row} ${name}`
}
rows.push(row)

writeFileSync(
  TARGET,
  `// Zones and links of the IANA database, release ${version}. Made by npm run time-zones.

export const TIME_ZONE_NAMES = \`
${rows.join('\n')}
\`
  .trim()
  .split(/\\s+/)
`,
)
