// The steps after a confirmed invoice: the endpoint, the dependencies and the work of each.
import type { EndpointSettings } from '../../src/client/client.ts'
import type { Work } from '../kit/deliveries.ts'
import type { Ledger } from '../kit/ledger.ts'
import { createWorks, type Place } from './works.ts'

export interface Step {
  endpoint: string
  title: string
  /** Results of earlier steps: for each name the endpoint, and a JSON Pointer into its result. */
  needs?: Record<string, { of: string; pointer: string }>
  /** Endpoints of other earlier steps that must succeed first. */
  after?: string[]
  settings: Omit<EndpointSettings, 'url' | 'secret'>
  // biome-ignore lint/suspicious/noExplicitAny: each step has other inputs
  work: Work<any>
}

export function createSteps(ledger: Ledger, place: Place, retryDelay: string): Step[] {
  const { pdf, eInvoice, eWayBill, eMail, accounting } = createWorks(ledger, place)
  const retry = { maxAttempts: 10, backoff: { type: 'exponential', delay: retryDelay } } as const
  const soon = { retry }
  const slow = { retry, completion: 'async', completionTimeout: '30s' } as const
  const eInvoiceNumber = { of: 'e-invoice', pointer: '/number' }
  return [
    { endpoint: 'invoice-pdf', title: 'PDF', settings: soon, work: pdf },
    { endpoint: 'e-invoice', title: 'E-invoice', settings: slow, work: eInvoice },
    {
      endpoint: 'e-way-bill',
      title: 'E-way bill',
      needs: { eInvoice: eInvoiceNumber },
      settings: soon,
      work: eWayBill,
    },
    {
      endpoint: 'invoice-mail',
      title: 'E-mail',
      needs: {
        pdf: { of: 'invoice-pdf', pointer: '/file' },
        eInvoice: eInvoiceNumber,
        eWayBill: { of: 'e-way-bill', pointer: '/number' },
      },
      settings: soon,
      work: eMail,
    },
    {
      endpoint: 'accounting',
      title: 'Accounting entries',
      needs: { eInvoice: eInvoiceNumber },
      after: ['invoice-mail'],
      settings: soon,
      work: accounting,
    },
  ]
}
