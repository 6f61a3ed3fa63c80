// Reads data again at an interval while the tab is visible, so that the page stays up to date.
import { useEffect, useRef, useState } from 'preact/hooks'
import { connection, Unreachable } from './api.js'

const TICK_MS = 1_000
/** The interval after a request that got no response. */
const AGAIN_MS = 2_000
/** However slow the store is, requests of this page take at most a sixth of the time. */
const REST_PER_LOOK = 5

/**
 * The latest result of `load`, which is called at an interval while the tab is visible. `load` gets
 * its last result, and returns the same object if nothing has changed.
 *
 * @template T
 * @param {(before: T | null, signal: AbortSignal) => Promise<T>} load rejects within a deadline
 * @param {number | null} everyMs null: only once
 * @param {unknown[]} on the values that `load` depends on: a changed one discards the earlier
 * result
 * @returns {{data: T | null, error: Error | null, refresh: () => void}}
 */
export function useLive(load, everyMs, on) {
  const [state, setState] = useState(
    /** @type {{on: string, data: T | null, error: Error | null}} */ ({
      on: '',
      data: null,
      error: null,
    }),
  )
  const refresh = useRef(() => {})
  const identity = JSON.stringify(on)
  const latest = useRef({ load, everyMs })
  latest.current = { load, everyMs }

  useEffect(() => {
    const end = new AbortController()
    const { signal } = end
    let timer = 0
    let isLooking = false
    let isWanted = false
    /** @type {T | null} */
    let data = null

    async function look() {
      clearTimeout(timer)
      isWanted = isLooking
      if (isLooking || document.hidden) return
      isLooking = true
      const startedAt = performance.now()
      /** @type {Error | null} */
      let error = null
      try {
        data = await latest.current.load(data, signal)
      } catch (failure) {
        error = /** @type {Error} */ (failure)
      }
      isLooking = false
      if (signal.aborted) return
      setState((before) =>
        before.on === identity && before.data === data && before.error === error
          ? before
          : { on: identity, data, error },
      )
      const { everyMs } = latest.current
      // A slow request is repeated less often.
      const leastMs = (performance.now() - startedAt) * REST_PER_LOOK
      if (isWanted) timer = setTimeout(look)
      else if (error instanceof Unreachable) timer = setTimeout(look, AGAIN_MS)
      else if (everyMs !== null) timer = setTimeout(look, Math.max(everyMs, leastMs))
    }

    refresh.current = look
    document.addEventListener('visibilitychange', look, { signal })
    addEventListener('online', look, { signal })
    look()
    return () => {
      end.abort()
      clearTimeout(timer)
    }
  }, [identity])

  const shown = state.on === identity ? state : { data: null, error: null }
  return { data: shown.data, error: shown.error, refresh: () => refresh.current() }
}

/** Renders again whenever the connection changes. */
export function useConnection() {
  const [, setCount] = useState(0)
  useEffect(() => {
    const draw = () => setCount((count) => count + 1)
    connection.watchers.add(draw)
    return () => {
      connection.watchers.delete(draw)
    }
  }, [])
  return connection
}

/** @type {Set<() => void>} */
const tickers = new Set()
setInterval(() => {
  if (!document.hidden) for (const draw of tickers) draw()
}, TICK_MS)

/** Renders again each second, so that "12 s ago" stays true. */
export function useTick() {
  const [, setCount] = useState(0)
  useEffect(() => {
    const draw = () => setCount((count) => count + 1)
    tickers.add(draw)
    return () => {
      tickers.delete(draw)
    }
  }, [])
}
