// Which characters a setting or a URL may contain: only visible ones. If one reader drops an
// invisible character and the next one keeps it, the text that was checked is not the text that is
// used.

/** Control characters, invisible characters, and spaces other than the plain one. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u

/** Whether every character is visible or the plain space. */
export function isPlainText(text: string): boolean {
  return text.isWellFormed() && !UNSEEN.test(text)
}
