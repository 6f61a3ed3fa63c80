// Preloaded into a worker by a round: stops the process as SIGSTOP from outside does, but when it
// is known to have claimed what it has not sent.
import { subscribe } from 'node:diagnostics_channel'

const path = process.env.STOP_AT_PATH
let isStopped = false

const stop = () => process.kill(process.pid, 'SIGSTOP')

// When it hands its first request for this path to the HTTP client.
subscribe('undici:request:create', (message) => {
  const { request } = message as { request: { path: string } }
  if (isStopped || request.path !== path) return
  isStopped = true
  stop()
})

// On request, and then in a timer: when it goes on, its sockets have their turn before its other
// timers. Out of the wait for sockets it would come back to its timers first.
process.on('SIGWINCH', () => setTimeout(stop, 0))
