// Ids of jobs and groups. They sort by creation, so that lists and ordering keys need no other sort
// key.
import { randomBytes } from 'node:crypto'

const ID_PREFIX = 'job_'
const GROUP_PREFIX = 'grp_'
const RANDOM_LENGTH = 16
const BASE32 = '0123456789abcdefghjkmnpqrstvwxyz'
/** 48 bits of time in 10 characters, then 80 random bits in 16: a ULID, lower case. */
const ID_SHAPE = /^job_[0-9a-hjkmnp-tv-z]{26}$/
const GROUP_ID_SHAPE = /^grp_[0-9a-hjkmnp-tv-z]{26}$/

export function isJobId(text: string): boolean {
  return ID_SHAPE.test(text)
}

export function isGroupId(text: string): boolean {
  return GROUP_ID_SHAPE.test(text)
}

// Random bytes are drawn in bulk: one system call per job would cost more than the rest of the id.
let pool = Buffer.alloc(0)
let poolAt = 0

function randomCharacters(count: number): string {
  if (poolAt + count > pool.length) {
    pool = randomBytes(4096)
    poolAt = 0
  }
  let text = ''
  for (let i = 0; i < count; i++) text += BASE32[(pool[poolAt + i] as number) & 31]
  poolAt += count
  return text
}

function timeCharacters(instant: number): string {
  let text = ''
  let rest = instant
  for (let i = 0; i < 10; i++) {
    text = BASE32[rest % 32] + text
    rest = Math.floor(rest / 32)
  }
  return text
}

/** The instant that the id encodes. */
export function timeOfJobId(id: string): number {
  const characters = id.slice(ID_PREFIX.length, -RANDOM_LENGTH)
  return [...characters].reduce((sum, one) => sum * 32 + BASE32.indexOf(one), 0)
}

let lastCreatedAt = 0
let lastRandom = ''

/**
 * A new id, sorted by `createdAt` and, within a millisecond of this process, by the order of the
 * calls (ULID, github.com/ulid/spec, "Monotonicity").
 */
export function newJobId(createdAt: number): string {
  return ID_PREFIX + newSuffix(createdAt)
}

export function newGroupId(createdAt: number): string {
  return GROUP_PREFIX + newSuffix(createdAt)
}

function newSuffix(createdAt: number): string {
  const next = createdAt === lastCreatedAt ? successor(lastRandom) : null
  lastCreatedAt = createdAt
  lastRandom = next ?? randomCharacters(RANDOM_LENGTH)
  return timeCharacters(createdAt) + lastRandom
}

/** The next text of the same length, or null after the last one. */
function successor(text: string): string | null {
  for (let i = text.length - 1; i >= 0; i--) {
    const digit = BASE32.indexOf(text[i] as string)
    if (digit < 31) return text.slice(0, i) + BASE32[digit + 1] + '0'.repeat(text.length - 1 - i)
  }
  return null
}

/** The smallest id that a job created at this instant can have. Bounds a list by time. */
export function firstIdAt(instant: number): string {
  return `${ID_PREFIX}${timeCharacters(Math.max(0, instant))}${'0'.repeat(RANDOM_LENGTH)}`
}
