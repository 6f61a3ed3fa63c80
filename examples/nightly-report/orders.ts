// The table of orders that the report reads, and some rows to begin with.
import type { DatabaseSync } from 'node:sqlite'

export interface Order {
  id: number
  createdAt: string
  cents: number
}

export const TABLES =
  'create table if not exists orders (id integer primary key, created_at text, cents integer)'
const HOUR_MS = 3_600_000

/** Adds an order for every three hours of the last three days, unless there are orders already. */
export function addSomeOrders(db: DatabaseSync, now: Date): void {
  const insert = db.prepare(
    'insert into orders (id, created_at, cents) values (?, ?, ?) on conflict do nothing',
  )
  if (db.prepare('select 1 from orders limit 1').get() !== undefined) return
  for (let id = 1; id <= 24; id++) {
    const createdAt = new Date(now.getTime() - (24 - id) * 3 * HOUR_MS)
    insert.run(id, createdAt.toISOString(), id * 1_000)
  }
}

export function ordersOf(db: DatabaseSync, isWanted: (createdAt: Date) => boolean): Order[] {
  const orders: Order[] = []
  const all = db.prepare('select id, created_at as createdAt, cents from orders order by id')
  for (const row of all.iterate()) {
    const order = row as unknown as Order
    if (isWanted(new Date(order.createdAt))) orders.push(order)
  }
  return orders
}
