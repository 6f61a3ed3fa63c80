// The dashboard as a user has it: API and worker as processes, and a real browser. It also watches
// the requests and errors of the page.
import type { Browser, BrowserContext, BrowserContextOptions, Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, expect, vi } from 'vitest'
import { findChromium, startChromium } from '../support/chromium.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { describedApi } from '../support/recorded-answers.ts'

export const CHROMIUM = findChromium()
const ACTION_DEADLINE_MS = 20_000
/** The deadline of a test that opens several pages. */
const TEST_DEADLINE_MS = 60_000
const DESK = { width: 1280, height: 900 }

interface OpenOptions extends BrowserContextOptions {
  /** The test can change the time of the page. */
  clock?: boolean
}

export interface Fixture {
  posthorn: Deployment
  receiver: Receiver
  /** Opens the page at this place of the dashboard, for example `/jobs?state=dead`. */
  open(place?: string, options?: OpenOptions): Promise<Page>
  /** Enqueues a job and returns its id. */
  enqueue(endpoint: string, fields?: object): Promise<string>
}

interface Template {
  method: string
  shape: RegExp
}

/** Forbidden actions of the page, reported after each test. */
const wrongs: string[] = []
/** Set by a test that breaks something on purpose. */
export const expected: { wrongs: RegExp | null } = { wrongs: null }

/** One fixture for each test file. Without a browser, it starts nothing. */
export function useFixture(settings: Record<string, string> = {}, worker = true): Fixture {
  vi.setConfig({ testTimeout: TEST_DEADLINE_MS, hookTimeout: TEST_DEADLINE_MS })
  const fixture = {} as Fixture
  let browser: Browser
  let usual: BrowserContext

  beforeAll(async () => {
    if (CHROMIUM === null) return
    const posthorn = deploy('sqlite', { POLL_INTERVAL: '20ms', ...settings })
    const [, receiver] = await Promise.all([
      posthorn.startApi(),
      startReceiver(),
      startChromium(CHROMIUM).then((one) => {
        browser = one
      }),
    ])
    Object.assign(fixture, { posthorn, receiver })
    if (worker) await posthorn.startWorker()
    usual = await browser.newContext({ viewport: DESK })
  })
  afterEach(async () => {
    for (const context of browser?.contexts() ?? []) {
      for (const page of context.pages()) await page.close()
      if (context !== usual) await context.close()
    }
    const { wrongs: allowed } = expected
    expected.wrongs = null
    expect(wrongs.splice(0).filter((one) => !allowed?.test(one))).toEqual([])
  })
  afterAll(async () => {
    await browser?.close()
    await fixture.posthorn?.close()
    await fixture.receiver?.close()
  })

  fixture.open = async (place = '/', { clock = false, ...options } = {}) => {
    const isUsual = Object.keys(options).length === 0
    const context = isUsual ? usual : await browser.newContext({ viewport: DESK, ...options })
    const page = await context.newPage()
    page.setDefaultTimeout(ACTION_DEADLINE_MS)
    if (clock) await page.clock.install()
    watch(page, fixture.posthorn.url())
    await page.goto(`${fixture.posthorn.url()}/dashboard#${place}`)
    return page
  }
  fixture.enqueue = async (endpoint, fields = {}) => {
    const answer = await fixture.posthorn.request('POST', '/jobs', {
      endpoint,
      payload: {},
      ...fields,
    })
    expect(answer.status).toBe(201)
    return answer.body.id
  }
  return fixture
}

/**
 * Checks that every request of the page is one of the public API, or for a file of the dashboard.
 */
function watch(page: Page, url: string): void {
  const described = templates()
  page.on('pageerror', (error) => wrongs.push(`error: ${error.message}`))
  page.on('console', (line) => {
    if (line.type() === 'error' || line.type() === 'warning') wrongs.push(`console: ${line.text()}`)
  })
  page.on('dialog', (dialog) => {
    wrongs.push(`dialog: ${dialog.message()}`)
    void dialog.dismiss()
  })
  page.on('request', (request) => {
    const { origin, pathname } = new URL(request.url())
    const isPublic = described.some(
      ({ method, shape }) => method === request.method() && shape.test(pathname),
    )
    if (origin !== url || !isPublic) wrongs.push(`request: ${request.method()} ${request.url()}`)
  })
}

function templates(): Template[] {
  const paths: Record<string, object> = describedApi().document.paths
  // The files of the page are not part of the API.
  const all = { ...paths, '/dashboard/{file}': { get: {} } }
  return Object.entries(all).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => ({
      method: method.toUpperCase(),
      shape: new RegExp(`^${path.replaceAll('.', '\\.').replaceAll(/\{[a-z]+\}/g, '[^/]+')}$`),
    })),
  )
}
