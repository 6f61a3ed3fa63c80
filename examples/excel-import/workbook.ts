// Reads the rows of a workbook one by one. Only its shared strings are kept in memory.
import ExcelJS from 'exceljs'

export interface Item {
  /** As Excel counts them: the heading is row 1. */
  row: number
  sku: string
  name: string
  quantity: number
  priceCents: number
}

/** The items of the first sheet below row `after`, in lists of `size`. */
export async function* itemsAfter(
  path: string,
  after: number,
  size: number,
): AsyncGenerator<Item[], void> {
  const options = { worksheets: 'emit', sharedStrings: 'cache', styles: 'ignore' } as const
  let items: Item[] = []
  let isFirst = true
  for await (const sheet of new ExcelJS.stream.xlsx.WorkbookReader(path, options)) {
    // Skips the rest instead of stopping: the reader removes its temporary files only at its end.
    if (!isFirst) continue
    isFirst = false
    for await (const row of sheet) {
      if (row.number === 1 || row.number <= after) continue
      items.push(itemFrom(row))
      if (items.length === size) {
        yield items
        items = []
      }
    }
  }
  if (items.length > 0) yield items
}

function itemFrom(row: ExcelJS.Row): Item {
  // Cells are counted from 1.
  const [, sku, name, quantity, priceCents] = row.values as unknown[]
  if (typeof sku !== 'string' || typeof name !== 'string') {
    throw new Error(`row ${row.number}: sku and name must be texts`)
  }
  if (typeof quantity !== 'number' || typeof priceCents !== 'number') {
    throw new Error(`row ${row.number}: quantity and priceCents must be numbers`)
  }
  return { row: row.number, sku, name, quantity, priceCents }
}
