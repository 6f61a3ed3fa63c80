// Creates a workbook to import: a heading and ROWS items (default 50,000).
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import ExcelJS from 'exceljs'

const rows = Number(process.env.ROWS ?? 50_000)
const folder = process.env.DATA_DIR ?? join(import.meta.dirname, 'data')
const filename = join(folder, 'items.xlsx')

mkdirSync(folder, { recursive: true })
const workbook = new ExcelJS.stream.xlsx.WorkbookWriter({ filename })
const sheet = workbook.addWorksheet('items')
sheet.addRow(['sku', 'name', 'quantity', 'priceCents']).commit()
for (let i = 1; i <= rows; i++) {
  sheet.addRow([`SKU-${i}`, `Item ${i}`, i % 500, i * 3]).commit()
}
sheet.commit()
await workbook.commit()
console.log(`${filename}: ${rows} rows`)
