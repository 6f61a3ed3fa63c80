// What the API tells the workers about itself, as one record that they read.
import type { ApiMode } from '../records.ts'
import type { Database } from './database.ts'

const API_MODE = 'api_mode'

export const WRITE_META = 'insert or replace into meta (key, value) values (?, ?)'
export const READ_META = 'select value from meta where key = ?'

export function writeApiMode({ connection }: Database, mode: ApiMode): Promise<void> {
  return connection.write('full', () => {
    connection.statement(WRITE_META).run(API_MODE, JSON.stringify(mode))
  })
}

export function readApiMode({ connection }: Database): Promise<ApiMode | null> {
  return connection.read(() => {
    const row = connection.statement(READ_META).get(API_MODE)
    if (row === undefined) return null
    return JSON.parse(row.value as string)
  })
}
