// The options that select jobs, for `jobs`, `retry` and `cancel`.
import { isFinal, type JobState } from '../src/client/job.ts'
import type { Option } from './command.ts'
import { oneOf } from './input.ts'

const STATES = ['queued', 'running', 'succeeded', 'dead', 'cancelled'] as const satisfies JobState[]

export const FILTER_OPTIONS = {
  endpoint: { type: 'string', value: 'NAME', help: 'jobs of this endpoint' },
  state: { type: 'string', value: 'STATE', multiple: true, help: STATES.join(', ') },
  tag: { type: 'string', value: 'TAG', help: 'jobs with this tag' },
  'created-after': { type: 'string', value: 'INSTANT', help: 'created at this instant or later' },
  'created-before': {
    type: 'string',
    value: 'INSTANT',
    help: 'created before, like 2030-01-31T09:00:00Z',
  },
} as const satisfies Record<string, Option>

export interface FilterValues {
  endpoint?: string
  state?: string[]
  tag?: string
  'created-after'?: string
  'created-before'?: string
}

export interface Filter {
  endpoint?: string
  state?: JobState[]
  tag?: string
  createdAfter?: string
  createdBefore?: string
}

export function filterFrom(values: FilterValues): Filter {
  const state = values.state?.map((one) => oneOf('--state', one, STATES))
  const { endpoint, tag, 'created-after': createdAfter, 'created-before': createdBefore } = values
  return {
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(state === undefined ? {} : { state }),
    ...(tag === undefined ? {} : { tag }),
    ...(createdAfter === undefined ? {} : { createdAfter }),
    ...(createdBefore === undefined ? {} : { createdBefore }),
  }
}

/** The states that a command can change. */
export const CHANGEABLE = {
  cancel: STATES.filter((state) => !isFinal(state)) as JobState[],
  retry: ['dead', 'cancelled'] as JobState[],
}
