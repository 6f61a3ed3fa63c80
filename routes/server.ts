// The API process: checks, stores, answers; delivers nothing.
import closeWithGrace from 'close-with-grace'
import type { FastifyInstance } from 'fastify'
import type { Logger } from 'pino'
import { type Config, ConfigError, fromSetting } from '../src/config.ts'
import { createLogger, flushLog } from '../src/log.ts'
import { openStore } from '../src/store/open-store.ts'
import { VERSION } from '../src/version.ts'
import { createAddressPolicy } from '../src/webhook/address-policy.ts'
import { isLoopbackName } from './access.ts'
import { buildApp } from './app.ts'

/** How long a stopping API lets requests finish before it closes their connections. */
const CLOSE_DEADLINE_MS = 5_000
/** A connection whose last answer was sent while closing stays open until somebody looks. */
const IDLE_CHECK_MS = 50

/** Starts the API; resolves with its URL once it listens. Throws when it can not start. */
export async function startApi(config: Config): Promise<string> {
  const log = createLogger('api', config.LOG_LEVEL)
  const localMode = config.API_KEYS === null
  refuseOpenDoor(config.HOST, localMode)
  const allowedTargets = config.ALLOWED_TARGETS ?? []
  const policy = fromSetting('ALLOWED_TARGETS', () =>
    createAddressPolicy({ allowedTargets, allowLoopback: localMode }),
  )
  const store = await openStore(config.STORE_URL, {
    retentionMs: config.RETENTION,
    retentionDeadMs: config.RETENTION_DEAD,
    encryptionKeys: config.ENCRYPTION_KEY,
  })
  await store.writeApiMode({ localMode })
  const app = await buildApp({
    store,
    policy,
    // Fastify's own lines at info say nothing that ours do not say better.
    log: log.child({}, { level: log.isLevelEnabled('warn') ? 'warn' : log.level }),
    apiKeys: config.API_KEYS ?? [],
    maxBodyBytes: config.MAX_BODY_BYTES,
    version: VERSION,
  })
  const url = await app.listen({ host: config.HOST, port: config.PORT })
  log.info({ url, localMode, allowedTargets }, 'api.listening')

  closeWithGrace({ delay: CLOSE_DEADLINE_MS * 2 }, async ({ err, signal }) => {
    if (err) log.fatal({ err }, 'api.crashed')
    await closeApp(app, log)
    log.info({ signal, storeCommands: store.commandCount }, 'api.stopped')
    await store.close()
    await flushLog(log)
  })
  return url
}

function refuseOpenDoor(host: string, localMode: boolean): void {
  if (!localMode || isLoopbackName(host)) return
  throw new ConfigError(
    `HOST is "${host}", which others can reach, but no API key is set. Set API_KEYS to a key of your ` +
      'own (for instance: API_KEYS=$(openssl rand -hex 24)), or leave HOST at 127.0.0.1.',
  )
}

/**
 * Closes listeners and waits at once, connections as they fall idle, all of them at the deadline.
 */
async function closeApp(app: FastifyInstance, log: Logger): Promise<void> {
  const idleTimer = setInterval(() => app.server.closeIdleConnections(), IDLE_CHECK_MS)
  const deadlineTimer = setTimeout(() => {
    log.warn('api.closing_connections')
    app.server.closeAllConnections()
  }, CLOSE_DEADLINE_MS)
  await app.close()
  clearInterval(idleTimer)
  clearTimeout(deadlineTimer)
}
