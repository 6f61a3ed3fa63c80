// Reads and checks an invoice that a browser sends.
import type { IncomingMessage } from 'node:http'

export interface Invoice {
  number: number
  customer: string
  email: string
  /** In the smallest unit of the currency, like all amounts here. */
  amountCents: number
}

const MAX_BODY_BYTES = 10_000

/** Returns the invoice, or a sentence that says what is wrong with it. */
export async function invoiceFrom(request: IncomingMessage): Promise<Invoice | string> {
  // A page of another site cannot send this content type without a preflight request.
  if (request.headers['content-type'] !== 'application/json') return 'send application/json'
  let body = ''
  for await (const chunk of request.setEncoding('utf8')) {
    body += chunk
    if (body.length > MAX_BODY_BYTES) return `the invoice is longer than ${MAX_BODY_BYTES} bytes`
  }
  let given: Partial<Invoice>
  try {
    given = JSON.parse(body) ?? {}
  } catch {
    return 'the invoice is not JSON'
  }
  const { number, customer, email, amountCents } = given
  if (!isCount(number, 999_999_999)) return 'number must be a whole number from 1 to 999,999,999'
  if (!isCount(amountCents, 1e12)) return 'amountCents must be a whole number from 1 to 10^12'
  if (typeof customer !== 'string' || !/^[^\p{Cc}]{1,100}$/u.test(customer)) {
    return 'customer must be a text of 1 to 100 characters'
  }
  if (typeof email !== 'string' || !/^[^\s<>@,;:"]{1,64}@[a-z0-9.-]{1,100}$/i.test(email)) {
    return 'email must be an address'
  }
  return { number, customer, email, amountCents }
}

function isCount(value: unknown, most: number): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) <= most
}

export function amountText({ amountCents }: Invoice): string {
  return (amountCents / 100).toFixed(2)
}
