// Responses whose numbers are printed as they came: JSON.parse would change 2⁵³ + 1.

import type { Call, Request } from '../src/client/call.ts'
import type { Check } from '../src/client/response-check.ts'

/** The exact text of a response. */
export async function responseText(call: Call, request: Request, check: Check): Promise<string> {
  return new TextDecoder().decode(await call.raw(request, check))
}

/**
 * Like JSON.parse, but JSON.stringify writes each number as it was in the text. A number that
 * JavaScript would write differently becomes an object, which cannot be used in arithmetic.
 */
export function exactJson(text: string): unknown {
  return JSON.parse(text, exactly as (name: string, value: unknown) => unknown)
}

function exactly(_: string, value: unknown, { source }: { source?: string }): unknown {
  const isOther = typeof value === 'number' && source !== undefined && String(value) !== source
  return isOther ? rawJson(source) : value
}

/** In Node since version 22, but not in the types of TypeScript. */
const { rawJSON: rawJson } = JSON as unknown as { rawJSON(text: string): object }
