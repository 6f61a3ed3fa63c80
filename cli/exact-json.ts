// Answers whose numbers are shown as they came: JSON.parse would make another one of 2⁵³ + 1.
import type { Check } from '../src/client/answer-check.ts'
import type { Call, Request } from '../src/client/call.ts'

/** The text of an answer, as it came. */
export async function responseText(call: Call, request: Request, check: Check): Promise<string> {
  return new TextDecoder().decode(await call.raw(request, check))
}

/**
 * As JSON.parse, but JSON.stringify writes each number as it stood in the text. One that JavaScript
 * would write otherwise is an object until then: no number to reckon with.
 */
export function exactJson(text: string): unknown {
  return JSON.parse(text, exactly as (name: string, value: unknown) => unknown)
}

function exactly(_: string, value: unknown, { source }: { source?: string }): unknown {
  const isOther = typeof value === 'number' && source !== undefined && String(value) !== source
  return isOther ? rawJson(source) : value
}

/** In Node since 22, and not in the types of TypeScript. */
const { rawJSON: rawJson } = JSON as unknown as { rawJSON(text: string): object }
