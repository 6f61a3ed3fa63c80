// Requests /health/live again and again, in a thread of its own. When asked, it returns how long
// the longest request took since the last time.
import { Agent, get } from 'node:http'
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'

const EVERY_MS = 3

export interface Probe {
  longestMs(): Promise<number>
  stop(): Promise<void>
}

export function startProbe(url: string): Probe {
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: url })
  return {
    longestMs: () =>
      new Promise((resolve) => {
        worker.once('message', resolve)
        worker.postMessage('longest')
      }),
    async stop() {
      await worker.terminate()
    },
  }
}

function probe(url: string): void {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  let longestMs = 0
  let sentAtMs = performance.now()
  const look = () => {
    const nowMs = performance.now()
    longestMs = Math.max(longestMs, nowMs - sentAtMs)
    return nowMs
  }
  const ask = () => {
    sentAtMs = performance.now()
    get(`${url}/health/live`, { agent }, (answer) => {
      answer.resume()
      answer.on('end', () => {
        look()
        setTimeout(ask, EVERY_MS)
      })
    })
  }
  parentPort?.on('message', () => {
    parentPort?.postMessage(longestMs)
    longestMs = 0
  })
  ask()
}

if (!isMainThread) probe(workerData as string)
