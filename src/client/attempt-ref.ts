// Which attempt a handler speaks for: by the URL that its delivery carried, or by id and token.
import { segment } from './request-path.ts'

/**
 * A delivery's completeUrl, failUrl or heartbeatUrl; or the id and the token of a job that was
 * pulled.
 */
export type AttemptRef =
  | string
  | URL
  | { jobId: string; token: string }
  | { id: string; token: string }

export type AttemptVerb = 'complete' | 'fail' | 'heartbeat'

/**
 * The path of the call, and its token apart, for a query may end up in a log. Of a URL nothing else
 * is used: it came in a header, which the signature of a delivery does not cover, so that its host
 * may be anybody's.
 *
 * @throws TypeError when the reference is none, or is the URL of another verb
 */
export function attemptCall(ref: AttemptRef, verb: AttemptVerb): { path: string; token: string } {
  const isUrl = typeof ref === 'string' || ref instanceof URL
  if (!isUrl && (typeof ref !== 'object' || ref === null)) {
    throw new TypeError(`to ${verb} an attempt, its URL, or its job's id and its token, is needed`)
  }
  const { jobId, token } = isUrl ? read(ref, verb) : of(ref)
  if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token)) {
    throw new TypeError(`to ${verb} an attempt, its token is needed`)
  }
  return { path: `/jobs/${segment(jobId)}/${verb}`, token }
}

function of(ref: Exclude<AttemptRef, string | URL>): { jobId: string; token: string } {
  return { jobId: 'jobId' in ref ? ref.jobId : ref.id, token: ref.token }
}

function read(url: string | URL, verb: AttemptVerb): { jobId: string; token: string } {
  if (!URL.canParse(String(url))) throw new TypeError(`not a ${verb} URL`)
  const { pathname, searchParams } = new URL(url)
  const [, jobId, found] = /\/jobs\/([^/]+)\/([a-z]+)$/.exec(pathname) ?? []
  if (jobId === undefined || found !== verb) {
    throw new TypeError(`not a ${verb} URL, but one whose path is ${pathname}`)
  }
  return { jobId: decodeURIComponent(jobId), token: searchParams.get('token') ?? '' }
}
