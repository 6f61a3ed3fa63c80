// A Go handler that sends interim responses that were not requested. Compiling it takes long.
// test/webhook/interim-responses.test.ts has the cases of a raw server.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { createAddressPolicy } from '../../src/webhook/address-policy.ts'
import { createSender } from '../../src/webhook/send.ts'
import { startProgram } from '../examples/program.ts'

const ATTEMPTS = 30
const PATIENT_MS = 10_000
const HANDLER = `package main

import ("fmt"; "net"; "net/http")

func main() {
	listener, _ := net.Listen("tcp", "127.0.0.1:0")
	fmt.Println("listening on port", listener.Addr().(*net.TCPAddr).Port)
	http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(100)
		w.WriteHeader(103)
		w.WriteHeader(201)
		fmt.Fprint(w, "7")
	}))
}
`
const hasGo = spawnSync('go', ['version']).status === 0
if (!hasGo) console.log('skipped: Go is not installed, so its interim responses are not tried')

it.skipIf(!hasGo)('a Go handler that sends 100 and 103 succeeds every time', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-go-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  writeFileSync(join(folder, 'main.go'), HANDLER)
  const program = await startProgram('go run main.go', {}, folder)
  onTestFinished(() => program.stop())
  const policy = createAddressPolicy({ allowedTargets: [], allowLoopback: true })
  const sender = createSender({ connections: 10, policy: () => policy, extraCaCerts: null })
  onTestFinished(() => sender.close())
  for (let i = 0; i < ATTEMPTS; i++) {
    const request = { url: `${program.url}/`, headers: [], body: Buffer.from('1') }
    expect(await sender.send(request, PATIENT_MS).ended).toMatchObject({
      ...{ outcome: 'succeeded', statusCode: 201, result: '7' },
    })
  }
})
