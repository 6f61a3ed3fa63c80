// posthorn retry: see ../bulk-command.ts.
import { bulkCommand } from '../bulk-command.ts'

export const command = bulkCommand(
  'retry',
  'Queue dead or cancelled jobs again, each with a fresh budget of attempts',
  ['posthorn retry --endpoint invoice-pdf --state dead --dry-run'],
)
