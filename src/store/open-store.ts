// Opens the store of STORE_URL. The drivers are loaded only when they are used.
import type { StoreReport } from './doctor-report.ts'
import type { Store, StoreSettings } from './store.ts'
import type { Migrated } from './upgrade.ts'

const SQLITE_SCHEME = 'sqlite:'

/** Opens the store that the URL names, and creates or upgrades it (StoreSettings.mayCreate). */
export async function openStore(url: string, settings: StoreSettings): Promise<Store> {
  if (url.startsWith(SQLITE_SCHEME)) {
    const { openSqliteStore } = await import('./sqlite/store.ts')
    return openSqliteStore(url.slice(SQLITE_SCHEME.length), settings)
  }
  const { openMongoStore } = await import('./mongo/store.ts')
  return openMongoStore(url, settings)
}

/** Brings the store to the schema of this version, and creates, changes and drops its indexes. */
export async function migrateStore(url: string): Promise<Migrated> {
  if (url.startsWith(SQLITE_SCHEME)) {
    const { migrateFile } = await import('./sqlite/connection.ts')
    return migrateFile(url.slice(SQLITE_SCHEME.length))
  }
  const { migrateMongoStore } = await import('./mongo/store.ts')
  return migrateMongoStore(url)
}

/**
 * Checks whether the store, or the place where it will be, is fit for Posthorn.
 *
 * @param signal ends the checks early; what they have created is removed then, too
 */
export async function examineStore(url: string, signal: AbortSignal): Promise<StoreReport> {
  if (url.startsWith(SQLITE_SCHEME)) {
    const { examineSqliteStore } = await import('./sqlite/doctor.ts')
    return { store: 'sqlite', ...examineSqliteStore(url.slice(SQLITE_SCHEME.length)) }
  }
  const { examineMongoStore } = await import('./mongo/doctor.ts')
  return { store: 'mongodb', ...(await examineMongoStore(url, signal)) }
}

/** Returns the free space of the file to the disk; null: the store is not on SQLite. */
export async function vacuumStore(url: string) {
  if (!url.startsWith(SQLITE_SCHEME)) return null
  const { vacuumFile } = await import('./sqlite/backup.ts')
  return vacuumFile(url.slice(SQLITE_SCHEME.length))
}

/** Copies the store to a new file, and the key file beside it; null: the store is not on SQLite. */
export async function backUpStore(url: string, target: string, encryptionKeys: Buffer[] | null) {
  if (!url.startsWith(SQLITE_SCHEME)) return null
  const { backUpFile } = await import('./sqlite/backup.ts')
  return backUpFile(url.slice(SQLITE_SCHEME.length), target, encryptionKeys)
}
