// The mode of the API as it is stored, for workers.

export interface ApiMode {
  /** No API key is set, so endpoints may have loopback addresses. */
  localMode: boolean
  /** Base of the URLs that handlers report to; null: unknown. */
  publicUrl: string | null
}
