// What the scripts for Node.js clients share: where everything is, how a check is told, what a client was answered.
//
// A script hands its checks to run(). Each check prints one line; one that fails does not keep the others from running.
// The site (gates, keys, models, the words of refusals) comes as a JSON file that run.py writes.

import { readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'

// How long something that follows from a client's deed may take to be seen: it takes milliseconds, machines may stall.
const SEEN_MS_MAX = 10_000

// How much of an answer is shown that should have been a refusal.
const ANSWER_SHOWN_MAX = 200

// Two clocks are compared: ours and the client's own timer, which may be rounded.
const CLOCK_MS = 20

export const SITE = JSON.parse(readFileSync(process.argv[2], 'utf8'))

export function expect(condition, what) {
  if (!condition) throw new Error(`expected: ${what}`)
}

// Runs all checks, functions by their names, in their order; ends with code 1 if one fails.
export async function run(checks) {
  let failed = 0
  for (const [name, check] of Object.entries(checks)) {
    const began = performance.now()
    try {
      await check()
      console.log(`ok ${name} (${((performance.now() - began) / 1000).toFixed(2)} s)`)
    } catch (error) {
      failed += 1
      console.log(`FAILED ${name}: ${String(error?.stack ?? error).replaceAll('\n', '\n    ')}`)
    }
  }
  process.exit(failed ? 1 : 0)
}

// The exception that the call must end with; `kind` is the name of its class.
export async function raised(call, kind) {
  let result
  try {
    result = await call()
  } catch (error) {
    expect(error.constructor.name === kind, `${kind}, not ${error.constructor.name}: ${error.message}`)
    return error
  }
  throw new Error(`expected: ${kind}, not an answer: ${JSON.stringify(result)?.slice(0, ANSWER_SHOWN_MAX)}`)
}

export async function all(stream) {
  const parts = []
  for await (const part of stream) parts.push(part)
  return parts
}

export async function seen(what, condition) {
  const deadline = performance.now() + SEEN_MS_MAX
  while (!(await condition())) {
    expect(performance.now() < deadline, `${what} within ${SEEN_MS_MAX} ms`)
    await pause(10) // bounded poll
  }
}

// What the simulated Ollama behind the gates has seen.
export async function counters() {
  return (await fetch(`${SITE.backend}/sim/counters`)).json()
}

// Waits until nothing generates: no slot is held by a request that has just been given up.
export async function backendRests() {
  await seen('an idle backend', async () => (await counters()).generating === 0)
}

// Takes a part of an endless stream, leaves it, and waits until the backend has been told.
export async function leaves(route, stream, leave) {
  const before = (await counters()).cancelled
  const parts = stream[Symbol.asyncIterator]()
  for (let number = 0; number < 3; number++) expect(!(await parts.next()).done, 'a stream without end')
  await leave()
  await seen("the backend's notice that the client has left", async () => (await counters()).cancelled > before)
  const last = (await counters()).cancellations.at(-1)
  expect(last.route === `POST ${route}`, `a cancelled POST ${route}, not ${JSON.stringify(last)}`)
  await backendRests()
}

// What a client asked and was answered: pass its `fetch` to the client.
export class Journal {
  entries = []
  onRefusal = () => {}

  fetch = async (...request) => {
    const entry = { asked: performance.now() }
    this.entries.push(entry)
    const response = await fetch(...request)
    entry.answered = performance.now()
    entry.status = response.status
    entry.retryAfter = response.headers.get('retry-after')
    if (entry.status === 429 || entry.status === 503) await this.onRefusal()
    return response
  }

  // Insists that some request was refused so, and that each further try came when Retry-After said, not before.
  showsPatience(status) {
    const statuses = this.entries.map((entry) => entry.status)
    const isRight = statuses.includes(status) && statuses.at(-1) === 200
    expect(isRight, `a refusal with ${status} and success at last, not ${statuses}`)
    for (const [row, refused] of this.entries.slice(0, -1).entries()) {
      if (refused.status === 200) continue
      expect(refused.status === status, `no other refusal than ${status}: ${statuses}`)
      expect(refused.retryAfter, `a ${status} with Retry-After`)
      const waited = this.entries[row + 1].asked - refused.answered
      const wanted = Number(refused.retryAfter) * 1000
      expect(waited >= wanted - CLOCK_MS, `a pause of ${wanted} ms, not ${waited.toFixed(0)} ms`)
    }
  }
}
