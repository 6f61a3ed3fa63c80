// API keys: only their SHA-256 is stored, so there is nothing to seal.
import { type KeyScope, MAX_KEYS, type StoredKey } from '../records.ts'
import type { Database } from './database.ts'

export const COUNT_KEYS = 'select count(*) as count from api_keys'
export const ADD_KEY = `
insert into api_keys (id, name, scope, hash, created_at) values (?, ?, ?, ?, ?)`
/** Parameter: limit. */
export const LIST_KEYS = `
select id, name, scope, hash, created_at from api_keys order by created_at, id limit +?`
export const REMOVE_KEY = 'delete from api_keys where id = ?'

interface KeyRow {
  id: string
  name: string
  scope: KeyScope
  hash: string
  created_at: number
}

export function addKey({ connection }: Database, key: StoredKey): Promise<'added' | 'full'> {
  return connection.write('full', () => {
    const count = connection.statement(COUNT_KEYS).get()?.count as number
    if (count >= MAX_KEYS) return 'full'
    connection.statement(ADD_KEY).run(key.id, key.name, key.scope, key.hash, key.createdAt)
    return 'added'
  })
}

export function listKeys({ connection }: Database): Promise<StoredKey[]> {
  return connection.read(() => {
    const rows = connection.statement(LIST_KEYS).all(MAX_KEYS) as unknown as KeyRow[]
    return rows.map(({ created_at, ...key }) => ({ ...key, createdAt: created_at }))
  })
}

export function removeKey({ connection }: Database, id: string): Promise<boolean> {
  return connection.write('full', () => connection.statement(REMOVE_KEY).run(id).changes === 1)
}
