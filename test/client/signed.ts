// Deliveries for the tests of verify, signed by the code of another project: the Standard Webhooks
// library.
import { randomBytes } from 'node:crypto'
import { Webhook } from 'standardwebhooks'

export const JOB_ID = 'job_01jd2y8x7k0000000000000000'

export const newSecret = (length = 32) => `whsec_${randomBytes(length).toString('base64')}`
export const nowSeconds = () => Math.floor(Date.now() / 1_000)

/** The headers that Posthorn sends with this body. */
export function signedHeaders(
  secret: string,
  body: string,
  { id = JOB_ID, timestampSeconds = nowSeconds() } = {},
): Record<string, string> {
  const at = new Date(timestampSeconds * 1_000)
  return {
    'webhook-id': id,
    'webhook-timestamp': String(timestampSeconds),
    'webhook-signature': new Webhook(secret).sign(id, at, body),
    'posthorn-endpoint': 'invoice-pdf',
    'posthorn-attempt': '2',
    'posthorn-attempts-left': '8',
    'posthorn-fence': '3',
    'posthorn-scheduled-for': '2026-11-24T08:30:00.000Z',
    'posthorn-deadline': '2026-11-24T08:30:15.000Z',
  }
}
