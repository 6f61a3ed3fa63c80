// A round preloads this file into a worker. It stops the process like SIGSTOP from outside, but at
// a moment when the worker has claimed jobs and not sent them.
import { subscribe } from 'node:diagnostics_channel'

const path = process.env.STOP_AT_PATH
let isStopped = false

const stop = () => process.kill(process.pid, 'SIGSTOP')

// Stops when the worker hands its first request for this path to the HTTP client.
subscribe('undici:request:create', (message) => {
  const { request } = message as { request: { path: string } }
  if (isStopped || request.path !== path) return
  isStopped = true
  stop()
})

// Stops on request, within a timer: when the process continues, its sockets run before its other
// timers. If it stopped while it waits for sockets, its timers would run first.
process.on('SIGWINCH', () => setTimeout(stop, 0))
