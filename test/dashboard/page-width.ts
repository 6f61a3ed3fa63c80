// Whether a page fits the screen of a phone.
import type { Page } from 'playwright-core'

export const PHONE = { viewport: { width: 360, height: 740 } }

/** Whether the page itself scrolls to the side. */
export const isSideways = (page: Page) =>
  page.evaluate<boolean>(
    'document.documentElement.scrollWidth > document.documentElement.clientWidth',
  )
