// Certificates for tests, made by openssl: authorities, and the valid and invalid certificates that
// they issue.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface Certificate {
  /** In PEM. */
  key: string
  /** In PEM, followed by the certificates of its issuers if it has any. */
  cert: string
}

export interface Issued extends Certificate {
  /** Issues a certificate signed with the key of this one, whether this one may do that or not. */
  issue(options?: IssueOptions): Issued
}

interface IssueOptions {
  /** In the spelling of openssl, like `DNS:a.example.com,IP:127.0.0.1`. */
  names?: string
  /** In days from now. The validity begins and ends at noon. */
  validDays?: [from: number, to: number]
  /** Further lines of extensions, like `basicConstraints=critical,CA:true`. */
  extensions?: string[]
  /** `ec` or `rsa:1024`. */
  key?: string
  digest?: string
}

export interface CertificateRoom {
  /** A certificate signed by itself. It is an authority unless the extensions say otherwise. */
  selfSigned(options?: IssueOptions): Issued
  /** Removes all files. */
  remove(): void
}

const DAY_MS = 86_400_000
const AUTHORITY = ['basicConstraints=critical,CA:true', 'keyUsage=keyCertSign,digitalSignature']

/** A folder for the certificates of a test. */
export function openCertificateRoom(): CertificateRoom {
  const directory = mkdtempSync(join(tmpdir(), 'posthorn-certificates-'))
  writeFileSync(join(directory, 'issued'), '')
  let count = 0

  function make(issuer: string | null, options: IssueOptions): Issued {
    const name = String(count++)
    const at = (kind: string, of = name) => join(directory, `${of}.${kind}`)
    const { names, validDays = [-1, 2], key = 'ec', digest = 'sha256' } = options
    const extensions = options.extensions ?? (issuer === null ? AUTHORITY : [])
    const all = names === undefined ? extensions : [...extensions, `subjectAltName=${names}`]
    writeFileSync(at('ext'), `${all.join('\n')}\n`)
    writeFileSync(at('cnf'), configIn(directory, digest))
    const keyOptions = key === 'ec' ? ['ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'] : [key]
    const subject = ['-subj', `/CN=certificate-${name}`]
    const files = ['-keyout', at('key'), '-out', at('csr')]
    openssl('req', '-new', '-newkey', ...keyOptions, '-nodes', ...subject, ...files)
    const signer =
      issuer === null
        ? ['-selfsign', '-keyfile', at('key')]
        : ['-cert', at('crt', issuer), '-keyfile', at('key', issuer)]
    const [start, end] = validDays.map(openSslTime) as [string, string]
    const dates = ['-startdate', start, '-enddate', end]
    const request = ['-in', at('csr'), '-out', at('crt'), '-extfile', at('ext')]
    openssl('ca', '-batch', '-notext', '-config', at('cnf'), ...signer, ...dates, ...request)
    return {
      key: readFileSync(at('key'), 'utf8'),
      cert: readFileSync(at('crt'), 'utf8'),
      issue: (more = {}) => make(name, more),
    }
  }

  return {
    selfSigned: (options = {}) => make(null, options),
    remove: () => rmSync(directory, { recursive: true, force: true }),
  }
}

/**
 * The configuration for `openssl ca`, which alone among the commands of openssl accepts the first
 * day of validity.
 */
function configIn(directory: string, digest: string): string {
  return `[ca]
default_ca = it
[it]
database = ${join(directory, 'issued')}
new_certs_dir = ${directory}
rand_serial = yes
default_md = ${digest}
unique_subject = no
policy = any
[any]
commonName = supplied
`
}

function openSslTime(daysFromNow: number): string {
  const day = new Date(Date.now() + daysFromNow * DAY_MS).toISOString().slice(0, 10)
  return `${day.replaceAll('-', '')}120000Z`
}

function openssl(...args: string[]): void {
  execFileSync('openssl', args, { stdio: 'pipe' })
}
