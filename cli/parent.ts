// For a child process of `posthorn start`: reports that it is up, and ends when its parent does.

export function notifyParent(ready: Record<string, string>): void {
  if (process.send === undefined) return
  process.send(ready)
  process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'))
}
