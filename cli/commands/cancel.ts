// posthorn cancel: see ../bulk-command.ts.
import { bulkCommand } from '../bulk-command.ts'

export const command = bulkCommand('cancel', 'Cancel jobs that are not final', [
  'posthorn cancel --tag july --state queued',
])
