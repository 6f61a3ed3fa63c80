// A mail server that stores nothing: it prints what would have been sent.
import type { AddressInfo } from 'node:net'
import { SMTPServer } from 'smtp-server'

const MAX_MAIL_BYTES = 10_000_000

/** Returns the port that it listens on. */
export async function startMailSink(): Promise<number> {
  const server = new SMTPServer({
    authOptional: true,
    disabledCommands: ['STARTTLS'],
    size: MAX_MAIL_BYTES,
    onData(stream, session, done) {
      let mail = ''
      stream.setEncoding('latin1').on('data', (chunk: string) => {
        if (mail.length <= MAX_MAIL_BYTES) mail += chunk
      })
      stream.on('end', () => {
        const to = session.envelope.rcptTo.map(({ address }) => address)
        const [, subject] = /^Subject: (.*)$/m.exec(mail) ?? []
        const [, file = 'none'] = /filename=(\S+)/.exec(mail) ?? []
        console.log(`mail: to ${to}, "${subject?.trim()}", attached: ${file}`)
        done()
      })
    },
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve())
  })
  return (server.server.address() as AddressInfo).port
}
