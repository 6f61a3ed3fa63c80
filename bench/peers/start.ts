// Starts a peer's process and sends it orders. Imports no peer, so that rows also load where none
// is installed.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Child, nextMessage, startChild } from '../processes.ts'
import { PEERS, type PeerName } from './settings.ts'

export interface RunningPeer {
  /** Name, with version and settings. */
  name: string
  durability: string
  child: Child
  enqueue(count: number): Promise<void>
  go(): Promise<void>
  halt(): Promise<void>
  stop(): void
}

/** @param mode one of the modes that bench/peers/settings.ts has for the peer */
export async function startPeer(
  peer: PeerName,
  mode: string,
  urls: { sinkUrl: string; serverUrl: string },
): Promise<RunningPeer> {
  const name = peerTitle(peer, mode)
  const child = startChild(`peers/${peer}.ts`, [urls.sinkUrl, urls.serverUrl, mode])
  await nextMessage(child)
  const ask = async (order: object) => {
    const answered = nextMessage(child)
    child.process.send(order)
    await answered
  }
  return {
    ...{ name, child, durability: PEERS[peer].durability },
    enqueue: (count) => ask({ enqueue: count }),
    go: () => ask({ go: true }),
    halt: () => ask({ halt: true }),
    stop: () => child.process.disconnect(),
  }
}

/**
 * For example `BullMQ 6.7.0 (as installed)`. Throws an error for the user if it is not installed.
 */
export function peerTitle(peer: PeerName, mode: string): string {
  const { title, modes } = PEERS[peer]
  const about = join(import.meta.dirname, '../node_modules', peer, 'package.json')
  if (!existsSync(about)) {
    throw new Error(`${title} is not installed: npm --prefix bench ci installs the peers`)
  }
  const { version } = JSON.parse(readFileSync(about, 'utf8'))
  return `${title} ${version} (${modes[mode]})`
}
