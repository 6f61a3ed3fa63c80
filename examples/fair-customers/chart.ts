// Draws waits as an SVG that can be read on a light and on a dark page.

/** One job. Both in seconds. */
export interface Wait {
  /** Since the load began. */
  enqueuedAt: number
  waited: number
}

interface Group {
  name: string
  kind: 'without' | 'with'
  waits: Wait[]
}

export interface Chart {
  title: string
  subtitle: string
  groups: [without: Group, withKeys: Group]
}

interface Axis {
  step: number
  most: number
}

const WIDTH = 960
const HEIGHT = 500
const PLOT = { left: 72, right: WIDTH - 32, top: 112, bottom: HEIGHT - 72 }
const RADIUS = 3
const LINE = 22
/** About as many steps of an axis. */
const STEPS = 6

const STYLE = `
  svg { font-family: system-ui, -apple-system, 'Segoe UI', sans-serif; font-size: 15px }
  .paper { fill: #fff; stroke: #d0d7de } text { fill: #1f2328 }
  .title { font-size: 22px; font-weight: 600 } .grid { stroke: #d8dee4 } .soft { fill: #59636e }
  circle { fill-opacity: 0.7 } .name { font-weight: 600 }
  .without { fill: #bc4c00 } .with { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117; stroke: #30363d } text { fill: #e6edf3 }
    .grid { stroke: #30363d } .soft { fill: #9198a1 }
    .without { fill: #f0883e } .with { fill: #58a6ff }
  }`

export function chartOf({ title, subtitle, groups }: Chart): string {
  const all = groups.flatMap(({ waits }) => waits)
  const x = axisTo(Math.max(...all.map(({ enqueuedAt }) => enqueuedAt)))
  const y = axisTo(Math.max(...all.map(({ waited }) => waited)))
  const atX = (seconds: number) => PLOT.left + (seconds / x.most) * (PLOT.right - PLOT.left)
  const atY = (seconds: number) => PLOT.bottom - (seconds / y.most) * (PLOT.bottom - PLOT.top)
  const dots = groups.flatMap(({ kind, waits }) =>
    waits.map(
      ({ enqueuedAt, waited }) =>
        `<circle class="${kind}" cx="${atX(enqueuedAt).toFixed(1)}" ` +
        `cy="${atY(waited).toFixed(1)}" r="${RADIUS}"/>`,
    ),
  )
  const [without, withKeys] = groups
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img">`,
    `<title>${title}</title>`,
    `<style>${STYLE}</style>`,
    `<rect class="paper" x="0.5" y="0.5" width="${WIDTH - 1}" height="${HEIGHT - 1}" rx="6"/>`,
    `<text class="title" x="${PLOT.left}" y="40">${title}</text>`,
    `<text class="soft" x="${PLOT.left}" y="66">${subtitle}</text>`,
    `<text class="soft" x="${PLOT.left}" y="${PLOT.top - 14}">seconds until the handler gets the job</text>`,
    ...ticksOf(y).map((tick) => lineAt(atY(tick), `${tick}`)),
    ...ticksOf(x).map(
      (tick) =>
        `<text class="soft" x="${atX(tick)}" y="${PLOT.bottom + 24}" text-anchor="middle">${tick}</text>`,
    ),
    `<text class="soft" x="${PLOT.right}" y="${PLOT.bottom + 50}" text-anchor="end">` +
      'when the job is enqueued, in seconds after the flood</text>',
    ...dots,
    ...summaryOf(without, PLOT.right - 8, PLOT.top + LINE, 'end'),
    ...summaryOf(withKeys, PLOT.left + 16, PLOT.bottom - 2 * LINE, 'start'),
    '</svg>\n',
  ].join('\n')
}

/** The wait that this share of the jobs does not exceed. */
export function shareOf(waits: Wait[], share: number): number {
  const ascending = waits.map(({ waited }) => waited).sort((a, b) => a - b)
  return ascending[Math.max(0, Math.ceil(share * ascending.length) - 1)] ?? 0
}

function lineAt(y: number, label: string): string {
  return (
    `<line class="grid" x1="${PLOT.left}" x2="${PLOT.right}" y1="${y}" y2="${y}"/>` +
    `<text class="soft" x="${PLOT.left - 12}" y="${y + 5}" text-anchor="end">${label}</text>`
  )
}

function summaryOf({ name, kind, waits }: Group, x: number, y: number, anchor: string): string[] {
  const [half, most, all] = [0.5, 0.95, 1].map((share) => `${rounded(shareOf(waits, share))} s`)
  return [
    `<text class="${kind} name" x="${x}" y="${y}" text-anchor="${anchor}">${name}</text>`,
    `<text class="${kind}" x="${x}" y="${y + LINE}" text-anchor="${anchor}">` +
      `half wait at most ${half}, 95 % ${most}, all ${all}</text>`,
  ]
}

function rounded(seconds: number): string {
  return seconds < 1 ? seconds.toFixed(2) : seconds.toFixed(1)
}

/** Steps of 1, 2 or 5 times a power of ten. */
function axisTo(greatest: number): Axis {
  const power = 10 ** Math.floor(Math.log10(greatest / STEPS))
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one * STEPS >= greatest)
  if (step === undefined) throw new Error(`no axis to ${greatest}`)
  return { step, most: Math.ceil(greatest / step) * step }
}

function ticksOf({ step, most }: Axis): number[] {
  const count = Math.round(most / step)
  return Array.from({ length: count + 1 }, (_, i) => Number((i * step).toPrecision(6)))
}
