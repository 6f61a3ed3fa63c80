// Checks arguments before anything is sent. `undefined` means that an option is absent. null is
// refused: in a header or a query it would become the word "null".

/** @throws TypeError if the value is null */
export function notNull<T>(name: string, value: T): Exclude<T, null> {
  if (value !== null) return value as Exclude<T, null>
  throw new TypeError(`${name} is null; expected a value, or undefined where none is given`)
}

/** @throws TypeError if the value is not an object */
export function givenObject<T>(name: string, value: T): T {
  if (typeof value === 'object' && value !== null) return value
  throw new TypeError(`${name} is ${value === null ? 'null' : typeof value}; expected an object`)
}

/** Refuses an invalid Date, which would become null in JSON. @throws TypeError */
export function refuseNoDate(name: string, value: unknown): void {
  if (!(value instanceof Date) || !Number.isNaN(value.getTime())) return
  throw new TypeError(`${name} is an invalid Date`)
}

/** A whole number of milliseconds, rounded up. @throws TypeError */
export function milliseconds(name: string, value: number): number {
  if (typeof value === 'number' && value >= 0 && value < Infinity) return Math.ceil(value)
  throw new TypeError(`${name} is ${String(value)}; expected a number of milliseconds`)
}

/**
 * The value of the header Idempotency-Key. A key that would be changed in transit, for example one
 * with leading or trailing spaces, is sent as a quoted string. The API decides which keys it
 * accepts.
 *
 * @throws TypeError if no header can carry the key
 */
export function idempotencyHeader(key: string): string {
  if (typeof notNull('idempotencyKey', key) !== 'string' || !/^[\x20-\x7e]*$/.test(key)) {
    throw new TypeError('idempotencyKey must be 1–255 visible ASCII characters')
  }
  const isPlain = /^[\x21-\x7e]+$/.test(key) && !/^".*"$/.test(key)
  return isPlain ? key : `"${key.replace(/["\\]/g, '\\$&')}"`
}

/** The header for the option `return`. @throws TypeError if it is another value */
export function preferHeader(wanted: string | undefined): Record<string, string> {
  switch (wanted) {
    case 'minimal':
      return { prefer: 'return=minimal' }
    case 'representation':
    case undefined:
      return {}
    default:
      throw new TypeError("return must be 'minimal' or 'representation'")
  }
}
