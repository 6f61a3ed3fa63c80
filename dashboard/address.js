// The page that is shown is named after the # of the address, so that a link to it can be sent.
import { useEffect, useState } from 'preact/hooks'
import { queryOf } from './api.js'

/** @typedef {{words: string[], query: URLSearchParams}} Address */

/** @returns {Address} `#/jobs/job_1?x=y` as its words and its query */
function readAddress() {
  const [path = '', query = ''] = location.hash.slice(1).split(/\?(.*)/s)
  const words = path.split('/').filter((word) => word !== '')
  return { words: words.map(decoded), query: new URLSearchParams(query) }
}

/** @param {string} word */
function decoded(word) {
  try {
    return decodeURIComponent(word)
  } catch {
    // An address that was typed by hand can have an invalid escape, which stays as it is: no record
    // has that name.
    return word
  }
}

/** @param {string[]} words @param {Parameters<typeof queryOf>[0]} [fields] */
export function addressOf(words, fields = {}) {
  return `#/${words.map(encodeURIComponent).join('/')}${queryOf(fields)}`
}

/** @param {string[]} words @param {Parameters<typeof queryOf>[0]} [fields] */
export function goTo(words, fields) {
  location.hash = addressOf(words, fields)
}

export function useAddress() {
  const [address, setAddress] = useState(readAddress)
  useEffect(() => {
    const read = () => setAddress(readAddress())
    addEventListener('hashchange', read)
    return () => removeEventListener('hashchange', read)
  }, [])
  return address
}
