// Endpoints: stored with their secrets sealed. Durable, for an HTTP answer reports each write.
import type { Endpoint, EndpointSettings } from '../../endpoint/endpoint.ts'
import {
  type ApiMode,
  type DeleteEndpointResult,
  type EndpointCounts,
  MAX_COUNT,
  type Page,
  type PutEndpointResult,
} from '../store.ts'
import type { Database } from './database.ts'
import { type EndpointRow, sealHeaders, toEndpoint } from './rows.ts'

const ENDPOINT_COLUMNS = `name, url, description, headers, timeout_ms, retry, secrets, deleting,
  created_at, updated_at, version`

export const ENDPOINT_NAMED = `select ${ENDPOINT_COLUMNS} from endpoints where name = ?`
export const ENDPOINTS_AFTER = `
select ${ENDPOINT_COLUMNS} from endpoints where name > ? order by name limit ?`

const PUT_ENDPOINT = `
insert or replace into endpoints (name, url, description, headers, timeout_ms, retry, max_attempts,
  secrets, created_at, updated_at, version)
values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
const DELETE_ENDPOINT = 'delete from endpoints where name = ?'
const MARK_DELETING = `
update endpoints set deleting = 1, updated_at = ?, version = version + 1
where name = ? and deleting = 0`

export const COUNT_QUEUED = `
select count(*) as count from (
  select 1 from jobs where state = 'queued' and endpoint = ? limit ${MAX_COUNT + 1})`
export const COUNT_RUNNING = `
select count(*) as count from (
  select 1 from jobs where state = 'running' and endpoint = ? limit ${MAX_COUNT + 1})`

const API_MODE = 'api_mode'
const WRITE_META = 'insert or replace into meta (key, value) values (?, ?)'
const READ_META = 'select value from meta where key = ?'

export function putEndpoint(
  database: Database,
  settings: EndpointSettings,
  secrets: { given: string | null; fresh: string },
  ifVersion: number | null,
): Promise<PutEndpointResult> {
  return database.connection.write('full', () => {
    const stored = find(database, settings.name)
    if (stored?.deleting) return { kind: 'being_deleted' }
    if (ifVersion !== null && stored?.version !== ifVersion) {
      return { kind: 'stale', version: stored?.version ?? null }
    }
    const now = database.clock.now()
    const kept = secrets.given === null ? stored?.secrets : [secrets.given]
    const endpoint: Endpoint = {
      ...settings,
      deleting: false,
      secrets: kept ?? [secrets.fresh],
      createdAt: stored?.createdAt ?? now,
      updatedAt: now,
      version: (stored?.version ?? 0) + 1,
    }
    write(database, endpoint)
    return { kind: stored === null ? 'created' : 'replaced', endpoint }
  })
}

function write({ connection, keys }: Database, endpoint: Endpoint): void {
  const { name } = endpoint
  connection
    .statement(PUT_ENDPOINT)
    .run(
      name,
      endpoint.url,
      endpoint.description,
      sealHeaders(endpoint.headers, name, keys),
      endpoint.timeoutMs,
      JSON.stringify(endpoint.retry),
      endpoint.retry.maxAttempts,
      keys.seal(JSON.stringify(endpoint.secrets), name),
      endpoint.createdAt,
      endpoint.updatedAt,
      endpoint.version,
    )
}

export function endpointsNamed(database: Database, names: string[]): Promise<Endpoint[]> {
  return database.connection.read(() =>
    [...new Set(names)].map((name) => find(database, name)).filter((endpoint) => endpoint !== null),
  )
}

export function listEndpoints(
  { connection, keys }: Database,
  after: string | null,
  limit: number,
): Promise<Page<Endpoint>> {
  return connection.read(() => {
    const rows = connection.statement(ENDPOINTS_AFTER).all(after ?? '', limit + 1)
    const items = (rows as unknown as EndpointRow[])
      .slice(0, limit)
      .map((row) => toEndpoint(row, keys))
    return { items, next: rows.length > limit ? (items.at(-1)?.name ?? null) : null }
  })
}

export function deleteEndpoint(
  database: Database,
  name: string,
  options: { force: boolean; ifVersion: number | null },
): Promise<DeleteEndpointResult> {
  const { connection, clock } = database
  return connection.write('full', () => {
    const stored = find(database, name)
    if (stored === null) return { kind: 'not_found' }
    if (options.ifVersion !== null && stored.version !== options.ifVersion) {
      return { kind: 'stale', version: stored.version }
    }
    if (stored.deleting) return { kind: 'deleting' }
    if (options.force) {
      connection.statement(MARK_DELETING).run(clock.now(), name)
      return { kind: 'deleting' }
    }
    const counts = countOne(database, name)
    if (counts.queued > 0 || counts.running > 0) return { kind: 'in_use', counts }
    connection.statement(DELETE_ENDPOINT).run(name)
    return { kind: 'deleted' }
  })
}

/** Opens every stored secret once: a wrong key ends the start instead of each delivery. */
export function proveKeys({ connection, keys }: Database): Promise<void> {
  return connection.read(() => {
    for (const row of connection.statement('select name, secrets from endpoints').iterate()) {
      keys.open(row.secrets as string, row.name as string)
    }
  })
}

export function countJobs(database: Database, names: string[]): Promise<EndpointCounts[]> {
  return database.connection.read(() => names.map((name) => countOne(database, name)))
}

function countOne({ connection }: Database, name: string): EndpointCounts {
  const queued = connection.statement(COUNT_QUEUED).get(name)?.count as number
  const running = connection.statement(COUNT_RUNNING).get(name)?.count as number
  return {
    queued: Math.min(queued, MAX_COUNT),
    running: Math.min(running, MAX_COUNT),
    more: queued > MAX_COUNT || running > MAX_COUNT,
  }
}

function find({ connection, keys }: Database, name: string): Endpoint | null {
  const row = connection.statement(ENDPOINT_NAMED).get(name) as EndpointRow | undefined
  return row === undefined ? null : toEndpoint(row, keys)
}

export function writeApiMode({ connection }: Database, mode: ApiMode): Promise<void> {
  return connection.write('full', () => {
    connection.statement(WRITE_META).run(API_MODE, JSON.stringify(mode))
  })
}

export function readApiMode({ connection }: Database): Promise<ApiMode | null> {
  return connection.read(() => {
    const row = connection.statement(READ_META).get(API_MODE)
    return row === undefined ? null : JSON.parse(row.value as string)
  })
}
