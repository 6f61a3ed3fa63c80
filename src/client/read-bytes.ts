// Reads a body of unknown length up to a limit.

/** The whole body, or null if it is longer than `maxBytes`; then the rest stays unread. */
export async function readBytes(
  chunks: AsyncIterable<Uint8Array | string>,
  maxBytes: number,
): Promise<Buffer | null> {
  const kept: Buffer[] = []
  let length = 0
  for await (const chunk of chunks) {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : Buffer.from(chunk)
    length += bytes.length
    if (length > maxBytes) return null
    kept.push(bytes)
  }
  return Buffer.concat(kept, length)
}
