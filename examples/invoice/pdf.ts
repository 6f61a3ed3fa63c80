// Writes the invoice as a PDF file. The file gets its final name only when it is complete.
import { createWriteStream } from 'node:fs'
import { rename } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'
import PDFDocument from 'pdfkit'
import { amountText, type Invoice } from './invoice.ts'

export async function writePdf(path: string, fence: number, invoice: Invoice): Promise<void> {
  const unfinished = `${path}.${fence}`
  const document = new PDFDocument({ size: 'A4', info: { Title: `Invoice ${invoice.number}` } })
  document.fontSize(20).text(`Invoice ${invoice.number}`).moveDown()
  document.fontSize(12).text(invoice.customer).text(invoice.email).moveDown()
  document.text(`Amount due: ${amountText(invoice)}`)
  document.end()
  await pipeline(document, createWriteStream(unfinished))
  await rename(unfinished, path)
}
