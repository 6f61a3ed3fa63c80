// All commands, in the order of the help. The file of a command is loaded only when it is used.
import type { Command } from './command.ts'

export interface Entry {
  summary: string
  load: () => Promise<{ command: Command }>
}

const SERVERS = 'Run a server'

export const COMMAND_GROUPS: Record<string, Record<string, Entry>> = {
  [SERVERS]: {
    start: {
      summary: 'one API and one worker (or several), restarted when they crash; reads .env',
      load: () => import('./commands/start.ts'),
    },
    api: {
      summary: 'the API: validates, stores, responds',
      load: () => import('./commands/api.ts'),
    },
    worker: {
      summary: 'a worker: claims, delivers, settles',
      load: () => import('./commands/worker.ts'),
    },
  },
  Jobs: {
    enqueue: {
      summary: 'store a job, and print its id',
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
      load: async () => ({ command: (await import('./commands/bulk.ts')).retry }),
    },
    cancel: {
      summary: 'cancel jobs, by id or filter',
      load: async () => ({ command: (await import('./commands/bulk.ts')).cancel }),
    },
    groups: {
      summary: 'jobs that finish together: list, create, close, retry, …',
      load: () => import('./commands/groups.ts'),
    },
    listen: {
      summary: 'deliver the jobs of an endpoint to a handler on this machine',
      load: () => import('./commands/listen.ts'),
    },
  },
  Setup: {
    endpoints: {
      summary: 'the receivers of jobs: list, put, set, pause, test, …',
      load: () => import('./commands/endpoints.ts'),
    },
    limits: {
      summary: 'limits that endpoints share: list, put, …',
      load: () => import('./commands/limits.ts'),
    },
    schedules: {
      summary: 'recurring jobs: list, pause, run, …',
      load: () => import('./commands/schedules.ts'),
    },
    keys: { summary: 'API keys: list, create, delete', load: () => import('./commands/keys.ts') },
    apply: {
      summary: 'create and change endpoints, limits and schedules to match a file',
      load: () => import('./commands/apply.ts'),
    },
  },
  Migration: {
    import: {
      summary: 'import the pending jobs of another queue: agenda',
      load: () => import('./commands/import.ts'),
    },
  },
  Operation: {
    stats: {
      summary: 'counts of queued and running jobs',
      load: () => import('./commands/stats.ts'),
    },
    workers: {
      summary: 'the workers that reported in the last hour',
      load: () => import('./commands/workers.ts'),
    },
    doctor: {
      summary: 'check whether the store is fit for Posthorn: store',
      load: () => import('./commands/doctor.ts'),
    },
    migrate: {
      summary: 'bring the store to the schema and indexes of this version',
      load: () => import('./commands/migrate.ts'),
    },
    backup: {
      summary: 'copy the SQLite store while it is in use',
      load: () => import('./commands/backup.ts'),
    },
    vacuum: {
      summary: 'return free space of the SQLite store to the disk',
      load: () => import('./commands/vacuum.ts'),
    },
  },
}

export function entryOf(name: string): Entry | undefined {
  return Object.values(COMMAND_GROUPS)
    .filter((group) => Object.hasOwn(group, name))
    .map((group) => group[name])[0]
}

/** Whether the command is a process that runs until it is stopped. */
export function isServer(name: string | undefined): boolean {
  return name !== undefined && Object.hasOwn(COMMAND_GROUPS[SERVERS] ?? {}, name)
}
