// A receiver that is far away: connecting to it takes a second. Its process is stopped while its
// queue of connections is full. So the kernel drops the first SYN, and the second one comes a
// second later.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

export interface FarReceiver {
  port: number
  close(): Promise<void>
}

const SERVER = `
const server = require('node:http').createServer((_, answer) => answer.end('{"far":true}'))
server.listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => console.log(server.address().port))`
/** A connection that is not open after this time waits for its second SYN. */
const SECOND_SYN_AFTER_MS = 200
const STANDS_STILL_MS = 600

/** Starts the receiver. Only connections within the next STANDS_STILL_MS take long. */
export async function startFarReceiver(): Promise<FarReceiver> {
  const child = spawn(process.execPath, ['-e', SERVER], { stdio: ['ignore', 'pipe', 'inherit'] })
  const [line] = await once(createInterface({ input: child.stdout }), 'line')
  const port = Number(line)
  child.kill('SIGSTOP')
  const fillers: Socket[] = []
  let isFull = false
  while (!isFull) {
    const filler = connect(port, '127.0.0.1')
    filler.on('error', () => {})
    fillers.push(filler)
    isFull = await Promise.race([
      once(filler, 'connect').then(() => false),
      sleep(SECOND_SYN_AFTER_MS).then(() => true),
    ])
  }
  const timer = setTimeout(() => child.kill('SIGCONT'), STANDS_STILL_MS)
  return {
    port,
    async close() {
      clearTimeout(timer)
      for (const filler of fillers) filler.destroy()
      const exited = once(child, 'exit')
      child.kill('SIGKILL')
      await exited
    },
  }
}
