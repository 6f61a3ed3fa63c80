// The rows, in the order of the table.
import type { Row } from './row.ts'
import { backlogRow } from './rows/backlog.ts'
import { postRow } from './rows/post.ts'

export const ROWS: Row[] = [postRow, backlogRow]
