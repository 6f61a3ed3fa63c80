// All commands, in the order of the help. What one needs is loaded only when it is asked for.
import type { Command } from './command.ts'

export interface Entry {
  summary: string
  load: () => Promise<{ command: Command }>
}

const SERVERS = 'Run a server'

export const COMMAND_GROUPS: Record<string, Record<string, Entry>> = {
  [SERVERS]: {
    start: {
      summary: 'one API and one worker, restarted when they crash; reads .env',
      load: () => import('./commands/start.ts'),
    },
    api: {
      summary: 'the API: checks, stores, answers',
      load: () => import('./commands/api.ts'),
    },
    worker: {
      summary: 'a worker: claims, delivers, settles',
      load: () => import('./commands/worker.ts'),
    },
  },
  Jobs: {
    enqueue: {
      summary: 'store a job, and say its id',
      load: () => import('./commands/enqueue.ts'),
    },
    get: { summary: 'a job and its attempts', load: () => import('./commands/get.ts') },
    wait: {
      summary: 'wait until a job is final; the exit code says how it ended',
      load: () => import('./commands/wait.ts'),
    },
    jobs: { summary: 'list jobs, newest first', load: () => import('./commands/jobs.ts') },
    explain: { summary: 'why a job is not running', load: () => import('./commands/explain.ts') },
    retry: {
      summary: 'queue dead or cancelled jobs again, by id or filter',
      load: () => import('./commands/retry.ts'),
    },
    cancel: {
      summary: 'cancel jobs, by id or filter',
      load: () => import('./commands/cancel.ts'),
    },
    listen: {
      summary: 'deliver the jobs of an endpoint to a handler on this machine',
      load: () => import('./commands/listen.ts'),
    },
  },
  'What is set up': {
    endpoints: {
      summary: 'who receives jobs: list, put, set, pause, test, …',
      load: () => import('./commands/endpoints.ts'),
    },
    schedules: {
      summary: 'jobs by the clock: list, pause, run, …',
      load: () => import('./commands/schedules.ts'),
    },
    keys: { summary: 'API keys: list, create, delete', load: () => import('./commands/keys.ts') },
    apply: {
      summary: 'make endpoints and schedules as a file says',
      load: () => import('./commands/apply.ts'),
    },
  },
  'Moving in': {
    import: {
      summary: 'carry over what another queue still has to do: agenda',
      load: () => import('./commands/import.ts'),
    },
  },
  'How it goes': {
    stats: { summary: 'what waits and runs', load: () => import('./commands/stats.ts') },
    workers: {
      summary: 'the workers that were seen lately',
      load: () => import('./commands/workers.ts'),
    },
    backup: {
      summary: 'copy the SQLite store, while it is in use',
      load: () => import('./commands/backup.ts'),
    },
    vacuum: {
      summary: 'give the free room of the SQLite store back to the disk',
      load: () => import('./commands/vacuum.ts'),
    },
  },
}

export function entryOf(name: string): Entry | undefined {
  return Object.values(COMMAND_GROUPS)
    .filter((group) => Object.hasOwn(group, name))
    .map((group) => group[name])[0]
}

/** Whether this is a process that stays, not a command that ends. */
export function isServer(name: string | undefined): boolean {
  return name !== undefined && Object.hasOwn(COMMAND_GROUPS[SERVERS] ?? {}, name)
}
