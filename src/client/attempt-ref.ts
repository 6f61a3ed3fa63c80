// Identifies the attempt that a handler reports about: by a URL of its delivery, or by id and
// token.
import { segment } from './request-path.ts'

/**
 * The completeUrl, failUrl or heartbeatUrl of a delivery, or the id and the token of a claimed job.
 */
export type AttemptRef =
  | string
  | URL
  | { jobId: string; token: string }
  | { id: string; token: string }

export type AttemptVerb = 'complete' | 'fail' | 'heartbeat'

/**
 * The path and the token of the call. The token is separate because queries end up in logs. Only
 * job id and token of a URL are used: the URL came in a header, which the signature of a delivery
 * does not cover, so its host cannot be trusted.
 *
 * @throws TypeError if the reference is invalid, or is the URL of another verb
 */
export function attemptCall(ref: AttemptRef, verb: AttemptVerb): { path: string; token: string } {
  const isUrl = typeof ref === 'string' || ref instanceof URL
  if (!isUrl && (typeof ref !== 'object' || ref === null)) {
    throw new TypeError(
      `to ${verb} an attempt, give its ${verb}Url, or the id and the token of the job`,
    )
  }
  const { jobId, token } = isUrl ? read(ref, verb) : of(ref)
  if (typeof token !== 'string' || !/^[\x21-\x7e]+$/.test(token)) {
    throw new TypeError(`to ${verb} an attempt, give its token`)
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
