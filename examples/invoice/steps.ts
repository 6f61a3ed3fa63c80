// The steps after a confirmed invoice: the endpoint, the dependencies and the work of each.
import type { EndpointSettings } from '../../src/client/client.ts'
import type { Work } from '../kit/deliveries.ts'
import type { Ledger } from '../kit/ledger.ts'
import type { Invoice } from './invoice.ts'
import { createWorks, type Place } from './works.ts'

export interface Step {
  endpoint: string
  title: string
  /** Endpoints of earlier steps that must succeed first. */
  after: string[]
  settings: Omit<EndpointSettings, 'url' | 'secret'>
  work: Work<Invoice>
}

export function createSteps(ledger: Ledger, place: Place, retryDelay: string): Step[] {
  const { pdf, eInvoice, eWayBill, eMail, accounting } = createWorks(ledger, place)
  const retry = { maxAttempts: 10, backoff: { type: 'exponential', delay: retryDelay } } as const
  const soon = { retry }
  const slow = { retry, completion: 'async', completionTimeout: '30s' } as const
  return [
    { endpoint: 'invoice-pdf', title: 'PDF', after: [], settings: soon, work: pdf },
    { endpoint: 'e-invoice', title: 'E-invoice', after: [], settings: slow, work: eInvoice },
    {
      endpoint: 'e-way-bill',
      title: 'E-way bill',
      after: ['e-invoice'],
      settings: soon,
      work: eWayBill,
    },
    {
      endpoint: 'invoice-mail',
      title: 'E-mail',
      after: ['invoice-pdf'],
      settings: soon,
      work: eMail,
    },
    {
      endpoint: 'accounting',
      title: 'Accounting entries',
      after: [],
      settings: soon,
      work: accounting,
    },
  ]
}
