// What a setting or a URL may be made of: characters that a person sees, so that the text that was
// checked is the text that is used. A character that one reader drops and the next one keeps would
// name two different things.

/** Control characters, invisible ones, and spaces that are not the plain one. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u

/** Whether every character is one that a person sees, or the plain space. */
export function isPlainText(text: string): boolean {
  return text.isWellFormed() && !UNSEEN.test(text)
}
