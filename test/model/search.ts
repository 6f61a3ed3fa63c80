// Breadth-first search of all states that a model can reach. The first state that violates a
// property is as few moves away from the start as possible, so its path is the shortest
// counterexample.

export interface Move<State> {
  /** What happens, as a sentence. */
  says: string
  to: State
  /** The property that this move violates; null: none. */
  breaks: string | null
}

export interface Model<State> {
  start: State
  movesOf(state: State): Move<State>[]
  /** Two states with the same key count as one. */
  keyOf(state: State): string
}

export interface SearchResult {
  /** `holds`: the search reached every state, and no move violates a property. */
  kind: 'holds' | 'broken'
  stateCount: number
  moveCount: number
  /** The number of moves from the start to the farthest state that the search reached. */
  depth: number
  /** The moves of the shortest counterexample. Empty if the model holds. */
  path: string[]
  breaks: string | null
}

interface Visited<State> {
  state: State
  from: Visited<State> | null
  says: string
  depth: number
}

/** @param maxStates the search fails beyond this number, because the model should be small */
export function search<State>(model: Model<State>, maxStates = 3_000_000): SearchResult {
  const first: Visited<State> = { state: model.start, from: null, says: '', depth: 0 }
  const queue = [first]
  const known = new Set([model.keyOf(model.start)])
  let moveCount = 0
  for (let at = 0; at < queue.length; at++) {
    const here = queue[at] as Visited<State>
    for (const { says, to, breaks } of model.movesOf(here.state)) {
      moveCount++
      const counts = { stateCount: known.size, moveCount, depth: here.depth + 1 }
      if (breaks !== null) return { kind: 'broken', ...counts, path: pathTo(here, says), breaks }
      const key = model.keyOf(to)
      if (known.has(key)) continue
      if (known.size === maxStates) throw new Error(`more than ${maxStates} states`)
      known.add(key)
      queue.push({ state: to, from: here, says, depth: here.depth + 1 })
    }
  }
  const depth = queue.at(-1)?.depth ?? 0
  return { kind: 'holds', stateCount: known.size, moveCount, depth, path: [], breaks: null }
}

function pathTo<State>(last: Visited<State>, says: string): string[] {
  const path = [says]
  for (let at: Visited<State> = last; at.from !== null; at = at.from) path.unshift(at.says)
  return path
}

/** Returns the result of a search as sentences. */
export function inWords(name: string, result: SearchResult): string {
  const { kind, stateCount, moveCount, depth, path, breaks } = result
  if (kind === 'holds') {
    return `${name}: holds in all ${stateCount} states (${moveCount} moves, ${depth} deep)`
  }
  const steps = path.map((says, index) => `  ${index + 1}. ${says}`)
  const head = `${name}: broken after ${path.length} moves, ${stateCount} states searched`
  return [head, ...steps, `  → ${breaks}`].join('\n')
}
