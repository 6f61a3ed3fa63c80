// The Prefer header (RFC 7240) as far as routes use it: `return`, by which a client chooses between
// the whole job and a minimal response. Nothing in this header is an error.
import type { FastifyReply } from 'fastify'
import { z } from 'zod'

const RETURN_PREFERENCES = ['minimal', 'representation'] as const
type ReturnPreference = (typeof RETURN_PREFERENCES)[number]

/** One token, quoted string or delimiter, with the spaces before it. */
const PART = /[ \t]*(?:([\w!#$%&'*+.^`|~-]+)|("(?:[^"\\]|\\.)*")|([=;,]))/y

export const preferHeaders = z.object({ prefer: z.string().transform(returnIn).optional() })

/**
 * The return preference of a Prefer header; null: there is none that counts. Node joins several
 * headers to one. Other preferences, all parameters, and a header that is not well-formed are
 * ignored. Of a repeated preference the first counts, and a request for both responses counts as a
 * request for neither (RFC 7240, sections 2 and 4.2).
 */
function returnIn(header: string): ReturnPreference | null {
  const values = valuesOf('return', header)
  if (RETURN_PREFERENCES.every((one) => values.includes(one))) return null
  return RETURN_PREFERENCES.find((one) => one === values[0]) ?? null
}

/** The values of a preference, in lower case. Empty: none, or the header is not well-formed. */
function valuesOf(name: string, header: string): string[] {
  const values: string[] = []
  let member: string[] = []
  const text = header.trimEnd()
  PART.lastIndex = 0
  while (PART.lastIndex < text.length) {
    const [, token, quoted, delimiter] = PART.exec(text) ?? []
    const part = token ?? delimiter ?? quoted
    if (part === undefined) return []
    if (delimiter === ',') {
      values.push(...valueIn(member, name))
      member = []
    } else member.push(part)
  }
  return [...values, ...valueIn(member, name)]
}

/** @param member its parts: a name, then perhaps `=` and a value, then parameters after `;` */
function valueIn([first = '', equals, value = '', after]: string[], name: string): string[] {
  if (first.toLowerCase() !== name) return []
  const hasValue = equals === '=' && (after === undefined || after === ';')
  const text = value.startsWith('"') ? value.slice(1, -1).replace(/\\(.)/g, '$1') : value
  return [hasValue ? text.toLowerCase() : '']
}

/** Says which preference was applied, and that the response would be different without it. */
export function setPreferenceHeaders(reply: FastifyReply, applied: ReturnPreference | null): void {
  reply.header('vary', 'Prefer')
  if (applied !== null) reply.header('preference-applied', `return=${applied}`)
}
