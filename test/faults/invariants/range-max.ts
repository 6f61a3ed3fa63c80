// The largest number of any range of a list, in logarithmic time (a bottom-up max tree).

/**
 * The largest number from index `from` up to, but without, index `to`; -Infinity if there is none.
 */
export function rangeMaxOf(values: Float64Array): (from: number, to: number) => number {
  const size = values.length
  const tree = new Float64Array(2 * size)
  tree.set(values, size)
  for (let i = size - 1; i > 0; i--) {
    tree[i] = Math.max(tree[2 * i] as number, tree[2 * i + 1] as number)
  }
  return (from, to) => {
    let largest = Number.NEGATIVE_INFINITY
    for (let left = from + size, right = to + size; left < right; left >>= 1, right >>= 1) {
      if (left & 1) largest = Math.max(largest, tree[left++] as number)
      if (right & 1) largest = Math.max(largest, tree[--right] as number)
    }
    return largest
  }
}
