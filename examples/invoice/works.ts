// The work of each step. External work is done first, and recorded in the ledger at the end.
import { basename, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import nodemailer from 'nodemailer'
import type { ReportProgress, Work } from '../kit/deliveries.ts'
import type { Ledger } from '../kit/ledger.ts'
import { register } from './government.ts'
import { amountText, type Invoice } from './invoice.ts'
import { writePdf } from './pdf.ts'

export const TABLES = `
  create table if not exists entries (
    invoice integer, account text, cents integer, e_invoice text, primary key (invoice, account))`
const HEARTBEAT_MS = 2_000
const MAIL_DEADLINE_MS = 10_000

/** What a step with `needs` receives. */
interface WithInputs<Name extends string> {
  payload: Invoice
  inputs: Record<Name, string>
}

export interface Place {
  dataFolder: string
  governmentUrl: string
  mailPort: number
}

export function createWorks(ledger: Ledger, place: Place) {
  const pdfOf = ({ number }: Invoice) => join(place.dataFolder, `invoice-${number}.pdf`)
  const mail = nodemailer.createTransport({ host: '127.0.0.1', port: place.mailPort })

  const pdf: Work<Invoice> = async ({ jobId, fence, payload }) => {
    await writePdf(pdfOf(payload), fence, payload)
    return ledger.finish(jobId, fence, { file: basename(pdfOf(payload)) })
  }

  const eInvoice: Work<Invoice> = async ({ jobId, fence, payload }, reportProgress) => {
    const url = `${place.governmentUrl}/e-invoices`
    const number = await withHeartbeats(
      reportProgress,
      register(url, jobId, { invoice: payload.number }),
    )
    return ledger.finish(jobId, fence, { number })
  }

  const eWayBill: Work<WithInputs<'eInvoice'>> = async ({ jobId, fence, payload }) => {
    const { eInvoice } = payload.inputs
    const number = await register(`${place.governmentUrl}/e-way-bills`, jobId, { eInvoice })
    return ledger.finish(jobId, fence, { number, eInvoice })
  }

  const eMail: Work<WithInputs<'pdf' | 'eInvoice' | 'eWayBill'>> = async (delivery) => {
    const { jobId, fence } = delivery
    const { payload: invoice, inputs } = delivery.payload
    await mail.sendMail({
      // Equal in each attempt: mail has no transaction, but a mailbox can detect repeats.
      messageId: `<${jobId}@example.com>`,
      from: 'invoices@example.com',
      to: invoice.email,
      subject: `Invoice ${invoice.number}`,
      text: `Dear ${invoice.customer}, please find attached your invoice.\nE-invoice ${inputs.eInvoice}, e-way bill ${inputs.eWayBill}`,
      attachments: [{ path: join(place.dataFolder, inputs.pdf) }],
      signal: AbortSignal.timeout(MAIL_DEADLINE_MS),
    })
    return ledger.finish(jobId, fence, { sentTo: invoice.email })
  }

  const accounting: Work<WithInputs<'eInvoice'>> = async ({ jobId, fence, payload }) => {
    const { payload: invoice, inputs } = payload
    return ledger.finish(jobId, fence, { booked: amountText(invoice) }, () => {
      const insert = ledger.db.prepare('insert into entries values (?, ?, ?, ?)')
      insert.run(invoice.number, 'receivables', invoice.amountCents, inputs.eInvoice)
      insert.run(invoice.number, 'revenue', -invoice.amountCents, inputs.eInvoice)
    })
  }

  return { pdf, eInvoice, eWayBill, eMail, accounting }
}

/** Sends a heartbeat every two seconds until the work has ended. */
async function withHeartbeats<T>(reportProgress: ReportProgress, work: Promise<T>): Promise<T> {
  const startedAtMs = performance.now()
  const ended = work.then((value) => ({ value }))
  // Awaited below, unless a heartbeat fails first.
  ended.catch(() => {})
  for (;;) {
    const seconds = Math.round((performance.now() - startedAtMs) / 1_000)
    await reportProgress({ message: `with the government for ${seconds} s` })
    const result = await Promise.race([ended, sleep(HEARTBEAT_MS, null)])
    if (result !== null) return result.value
  }
}
