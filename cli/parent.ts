// A process under `posthorn start`: says that it is up, and ends with its parent.

export function notifyParent(ready: Record<string, string>): void {
  if (process.send === undefined) return
  process.send(ready)
  process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'))
}
