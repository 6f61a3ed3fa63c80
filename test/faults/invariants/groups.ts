// I18: the counts of a group are those of its members. I19: the notices of a group.
import type { Delivery, GroupRecord, JobRecord } from '../history.ts'
import { effectOf, type Facts, isFinal, type JobFacts, type Report } from './facts.ts'

const FINAL_STATES = ['succeeded', 'dead', 'cancelled'] as const

/** A member that is deleted stays counted. */
export function checkGroupCounts(facts: Facts, report: Report): void {
  const membersOf = Map.groupBy(facts.history.records, ({ groupId }) => groupId)
  const goneOf = Map.groupBy(deletedMembers(facts), ({ groupId }) => groupId)
  for (const group of facts.history.groups) {
    const members = membersOf.get(group.id) ?? []
    const gone = goneOf.get(group.id) ?? []
    checkCounts(group, members, gone.length, report)
  }
  checkAccepted(facts, report)
}

function checkCounts(
  { id, state, counts }: GroupRecord,
  members: JobRecord[],
  goneCount: number,
  report: Report,
): void {
  const told = JSON.stringify(counts)
  const isFailed = counts.dead + counts.cancelled > 0
  if (state !== (isFailed ? 'failed' : 'succeeded')) report(`${id} is ${state} with ${told}`)
  if (counts.queued + counts.running > 0) report(`${id} is over with ${told}`)
  for (const final of FINAL_STATES) {
    const found = members.filter((member) => member.state === final).length
    if (counts[final] < found) report(`${id} has ${found} members that are ${final}: ${told}`)
  }
  for (const member of members) {
    if (!isFinal(member.state)) report(`${member.id} is ${member.state}, and ${id} is ${state}`)
  }
  const counted = counts.succeeded + counts.dead + counts.cancelled
  if (counted !== members.length + goneCount) {
    report(`${id} has ${members.length} members, and ${goneCount} were deleted: ${told}`)
  }
}

/** The group of each member that was stored, and whose deletion may have worked. */
function deletedMembers({ history, jobs }: Facts): { groupId: string }[] {
  const gone = new Map<string, string>()
  for (const { kind, jobId, groupId } of history.calls) {
    if (kind !== 'enqueue' || jobId === null || groupId === null) continue
    const { record = null, commands = [] } = jobs.get(jobId) ?? {}
    if (record === null && commands.some((one) => one.kind === 'delete')) gone.set(jobId, groupId)
  }
  return [...gone.values()].map((groupId) => ({ groupId }))
}

/** A response that says that a job is stored also says that its group waits for it. */
function checkAccepted({ history, jobs }: Facts, report: Report): void {
  for (const call of history.calls) {
    const { kind, jobId, groupId } = call
    if (kind !== 'enqueue' || jobId === null || effectOf(call) !== 'done') continue
    const record = jobs.get(jobId)?.record ?? null
    if (record !== null && record.groupId !== groupId) {
      report(`${jobId} was accepted for ${groupId}, and is a member of ${record.groupId}`)
    }
  }
}

export function checkGroupNotices(facts: Facts, report: Report): void {
  const noticesOf = Map.groupBy(noticesIn(facts), ({ groupId }) => groupId)
  const groups = new Map(facts.history.groups.map((group) => [group.id, group]))
  for (const groupId of noticesOf.keys()) {
    if (!groups.has(groupId)) report(`a notice names ${groupId}, which is no group`)
  }
  const membersOf = Map.groupBy(facts.jobs.values(), ({ record }) => record?.groupId ?? null)
  for (const group of groups.values()) {
    const { id, finishes, counts } = group
    const notices = noticesOf.get(id) ?? []
    if (notices.length !== finishes || finishes === 0) {
      report(`${id} finished ${finishes} times, and sent ${notices.length} notices`)
    }
    const last = notices.at(-1)
    if (last === undefined) continue
    const told = JSON.stringify(last.counts)
    if (told !== JSON.stringify(ordered(counts))) {
      report(`the last notice of ${id} tells ${told}, and it has ${JSON.stringify(counts)}`)
    }
    for (const member of membersOf.get(id) ?? []) checkMember(id, member, last.beganAtMs, report)
  }
}

/** What a job was delivered with last must have come before the notice of its group. */
function checkMember(
  groupId: string,
  { id, record, deliveries }: JobFacts,
  noticeAtMs: number,
  report: Report,
): void {
  const late = deliveries.find(
    ({ fence, beganAtMs }) => fence === record?.fence && beganAtMs > noticeAtMs,
  )
  if (late !== undefined) report(`${id} was delivered after the last notice of ${groupId}`)
}

interface Notice {
  groupId: string
  counts: GroupRecord['counts']
  beganAtMs: number
}

/** Each notice once, in the order in which they first came. */
function noticesIn({ history }: Facts): Notice[] {
  const first = new Map<string, Delivery>()
  for (const delivery of history.deliveries) {
    const known = first.get(delivery.jobId)
    if (known === undefined || delivery.beganAtMs < known.beganAtMs) {
      first.set(delivery.jobId, delivery)
    }
  }
  return [...first.values()]
    .flatMap(({ notice, beganAtMs }) =>
      notice === null
        ? []
        : [{ groupId: notice.groupId, counts: ordered(notice.counts), beganAtMs }],
    )
    .sort((a, b) => a.beganAtMs - b.beganAtMs)
}

function ordered({ queued, running, succeeded, dead, cancelled }: GroupRecord['counts']) {
  return { queued, running, succeeded, dead, cancelled }
}
