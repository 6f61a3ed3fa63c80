// I11: no text contains a secret of the run, neither as it is nor in an encoding that is easy to
// decode.
import type { Facts, Report } from './facts.ts'

/** A shorter one would be found by chance. */
const MIN_SECRET_LENGTH = 8

/** Names a secret by its index: the message must not reveal it. */
export function checkSecrets({ history }: Facts, report: Report): void {
  for (const [index, secret] of history.secrets.entries()) {
    if (secret.length < MIN_SECRET_LENGTH) {
      report(`secret ${index} is too short to be looked for`)
      continue
    }
    const forms = formsOf(secret)
    for (const { from, text } of history.texts) {
      const found = forms.find(({ written }) => text.includes(written))
      if (found !== undefined) report(`secret ${index} stands in ${from} (${found.name})`)
    }
  }
}

function formsOf(secret: string): { name: string; written: string }[] {
  const bytes = Buffer.from(secret)
  return [
    { name: 'as it is', written: secret },
    { name: 'as JSON', written: JSON.stringify(secret).slice(1, -1) },
    { name: 'percent-encoded', written: encodeURIComponent(secret) },
    { name: 'hex', written: bytes.toString('hex') },
    ...[0, 1, 2].map((offset) => ({ name: 'base64', written: insideBase64(bytes, offset) })),
  ]
}

/**
 * The part of the base64 text that is the same whatever bytes come before and after the secret.
 * `offset` is the place of the secret within three bytes.
 */
function insideBase64(bytes: Buffer, offset: number): string {
  const encoded = Buffer.concat([Buffer.alloc(offset), bytes]).toString('base64')
  const wholeCount = Math.floor(((offset + bytes.length) * 8) / 6)
  return encoded.slice(Math.ceil((offset * 8) / 6), wholeCount)
}
