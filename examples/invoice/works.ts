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
  create table if not exists e_invoices (invoice integer primary key, number text);
  create table if not exists entries (
    invoice integer, account text, cents integer, primary key (invoice, account))`
const HEARTBEAT_MS = 2_000
const MAIL_DEADLINE_MS = 10_000

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
    return ledger.finish(jobId, fence, { number }, () => {
      const insert = 'insert into e_invoices values (?, ?) on conflict do nothing'
      ledger.db.prepare(insert).run(payload.number, number)
    })
  }

  const eWayBill: Work<Invoice> = async ({ jobId, fence, payload }) => {
    const select = 'select number from e_invoices where invoice = ?'
    const { number: eInvoice } = ledger.db.prepare(select).get(payload.number) as { number: string }
    const number = await register(`${place.governmentUrl}/e-way-bills`, jobId, { eInvoice })
    return ledger.finish(jobId, fence, { number, eInvoice })
  }

  const eMail: Work<Invoice> = async ({ jobId, fence, payload }) => {
    await mail.sendMail({
      // Equal in each attempt: mail has no transaction, but a mailbox can detect repeats.
      messageId: `<${jobId}@example.com>`,
      from: 'invoices@example.com',
      to: payload.email,
      subject: `Invoice ${payload.number}`,
      text: `Dear ${payload.customer}, please find attached your invoice.`,
      attachments: [{ path: pdfOf(payload) }],
      signal: AbortSignal.timeout(MAIL_DEADLINE_MS),
    })
    return ledger.finish(jobId, fence, { sentTo: payload.email })
  }

  const accounting: Work<Invoice> = async ({ jobId, fence, payload }) =>
    ledger.finish(jobId, fence, { booked: amountText(payload) }, () => {
      const insert = ledger.db.prepare('insert into entries values (?, ?, ?)')
      insert.run(payload.number, 'receivables', payload.amountCents)
      insert.run(payload.number, 'revenue', -payload.amountCents)
    })

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
