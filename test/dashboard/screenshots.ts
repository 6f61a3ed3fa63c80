// Makes the pictures of docs/images. Run it by hand and check each picture: node
// test/dashboard/screenshots.ts. With a folder as its argument, it writes every page there, in
// every theme and size.
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Page } from 'playwright-core'
import { findChromium, startChromium } from '../support/chromium.ts'
import { isSideways } from './page-width.ts'
import { startRealisticDeployment } from './realistic-seed.ts'

const DESK = { width: 1280, height: 860 }
const PHONE = { width: 360, height: 780 }
const ZONE = 'Europe/Berlin'
const LOOKS = [
  { name: 'light', colorScheme: 'light', viewport: DESK },
  { name: 'dark', colorScheme: 'dark', viewport: DESK },
  { name: 'phone', colorScheme: 'light', viewport: PHONE },
] as const
/** The documentation shows these pages in every theme. The others are shown in the light one. */
const SHOWN_ALL = ['overview', 'job']

interface Picture {
  name: string
  place: string
  /** Content that is on the page once it has loaded. */
  ready: string
  before?: (page: Page) => Promise<void>
}

const given = process.argv[2]
const folder = given ?? join(import.meta.dirname, '../../docs/images')
const executable = findChromium()
if (executable === null) process.exit(1)
mkdirSync(folder, { recursive: true })

const { url, ids, close } = await startRealisticDeployment()
const browser = await startChromium(executable)
try {
  const pictures: Picture[] = [
    { name: 'overview', place: '/', ready: 'table.endpoints svg.spark' },
    { name: 'job', place: `/jobs/${ids.dead}`, ready: '[aria-labelledby=payload] pre' },
    { name: 'job-running', place: `/jobs/${ids.running}`, ready: 'progress' },
    { name: 'job-retrying', place: `/jobs/${ids.retrying}`, ready: '.timeline .now' },
    { name: 'jobs', place: '/jobs', ready: 'table.jobs' },
    {
      name: 'bulk',
      place: '/jobs?endpoint=send-email&state=queued',
      ready: 'table.jobs',
      before: async (page) => {
        await page.getByRole('button', { name: 'Cancel …' }).click()
        await page.getByRole('dialog').waitFor()
      },
    },
    { name: 'endpoint', place: '/endpoints/send-email', ready: 'svg.spark' },
    { name: 'group', place: `/groups/${ids.group}`, ready: '[aria-labelledby=failures] table' },
    { name: 'groups', place: '/groups', ready: 'table.rows' },
    { name: 'schedules', place: '/schedules', ready: '.runs' },
  ]
  for (const { name: look, ...options } of LOOKS) {
    const context = await browser.newContext({ ...options, timezoneId: ZONE })
    for (const { name, place, ready, before } of pictures) {
      if (given === undefined && look !== 'light' && !SHOWN_ALL.includes(name)) continue
      const page = await context.newPage()
      await page.goto(`${url}/dashboard#${place}`)
      await page.locator(ready).first().waitFor()
      await page.waitForLoadState('networkidle')
      await before?.(page)
      if (await isSideways(page)) console.warn(`${name} ${look} scrolls sideways`)
      const path = join(folder, `${name}-${look}.png`)
      await page.screenshot({ path, fullPage: given !== undefined })
      await page.close()
    }
    await context.close()
  }
} finally {
  await browser.close()
  await close()
}
