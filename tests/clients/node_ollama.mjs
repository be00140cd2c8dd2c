// Ollama's own JavaScript client against the gate: node_ollama.mjs SITE.json

import { Ollama } from 'ollama'

import { SITE, all, backendRests, expect, leaves, raised, run } from './checks.mjs'

const HELLO = [{ role: 'user', content: 'Hello' }]
const PARAMETERS = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
const WEATHER = { name: 'weather', description: 'Tells the weather of a city.', parameters: PARAMETERS }
const TOOLS = [{ type: 'function', function: WEATHER }]

function client(key = SITE.keys.all, host = SITE.keyed) {
  return new Ollama({ host, headers: key ? { Authorization: `Bearer ${key}` } : {} })
}

function says(prompt) {
  return [{ role: 'user', content: prompt }]
}

async function refused(call, status, text) {
  const error = await raised(call, 'ResponseError')
  expect(error.status_code === status, `status ${status}, not ${error.status_code}: ${error.error}`)
  expect(error.error.includes(text), `a text with '${text}', not '${error.error}'`)
}

function isAStream(parts) {
  expect(parts.length > 2, `several parts, not ${parts.length}`)
  expect(parts.every((part, row) => part.done === (row === parts.length - 1)), 'only the last part is done')
  expect(parts.at(-1).eval_count > 0 && parts.at(-1).prompt_eval_count > 0, 'counts in the last part')
}

function isAll(found, names, what) {
  expect(JSON.stringify([...found].sort()) === JSON.stringify([...names].sort()), `${what}, not ${found}`)
}

await run({
  async lists() {
    const names = async (own) => (await own.list()).models.map((model) => model.model)
    isAll(await names(client()), [SITE.model, SITE.other, SITE.embedder], 'all models in the list')
    isAll(await names(client(SITE.keys.other)), [SITE.other], 'only what the key may use in the list')
  },

  async open_gate() {
    const answer = await client(null, SITE.open).chat({ model: SITE.model, messages: HELLO })
    expect(answer.message.content, 'an answer from a gate without keys')
  },

  async show() {
    const about = await client().show({ model: SITE.model })
    expect(about.capabilities.includes('completion') && about.details.family, 'capabilities and details')
  },

  async ps() {
    await client().generate({ model: SITE.model, prompt: '' })
    const found = (await client().ps()).models.map((model) => model.model)
    expect(found.includes(SITE.model), `the model among those in memory, not ${found}`)
  },

  async generate() {
    const answer = await client().generate({ model: SITE.model, prompt: 'Why is the sky blue?' })
    expect(answer.done && answer.response && answer.eval_count > 0, 'a whole answer with its counts')
    const stream = await client().generate({ model: SITE.model, prompt: 'Why is the sky blue?', stream: true })
    const parts = await all(stream)
    isAStream(parts)
    expect(parts.map((part) => part.response).join('') === answer.response, 'the same text either way')
  },

  async chat() {
    const answer = await client().chat({ model: SITE.model, messages: HELLO, options: { num_predict: 5 } })
    expect(answer.message.role === 'assistant' && answer.message.content, "the assistant's message")
    expect(answer.done_reason === 'length' && answer.eval_count === 5, 'an end after 5 tokens')
  },

  async stream() {
    const parts = await all(await client().chat({ model: SITE.model, messages: HELLO, stream: true }))
    isAStream(parts)
    expect(parts.map((part) => part.message.content).join(''), 'some text')
  },

  async tools() {
    const messages = says(SITE.tool_prompt)
    let answer = await client().chat({ model: SITE.model, messages, tools: TOOLS })
    const calls = (answer.message.tool_calls ?? []).map((call) => call.function)
    isAll(calls.map((call) => call.name), ['weather'], 'a call of the tool')
    expect(typeof calls[0].arguments === 'object', 'arguments')
    messages.push(answer.message, { role: 'tool', tool_name: 'weather', content: 'sunny' })
    answer = await client().chat({ model: SITE.model, messages, tools: TOOLS })
    expect(answer.message.content && !answer.message.tool_calls?.length, "an answer from the tool's result")
  },

  async embed() {
    const answer = await client().embed({ model: SITE.embedder, input: ['one', 'two'] })
    expect(answer.embeddings.length === 2 && answer.embeddings[0].length > 1, 'a vector for each input')
    const older = await client().embeddings({ model: SITE.embedder, prompt: 'one' })
    expect(older.embedding.length > 1, 'a vector by the older route')
  },

  async cancel() {
    const chat = await client().chat({ model: SITE.model, messages: says(SITE.endless), stream: true })
    await leaves('/api/chat', chat, () => chat.abort())
    const generation = await client().generate({ model: SITE.model, prompt: SITE.endless, stream: true })
    await leaves('/api/generate', generation, () => generation.abort())
  },

  async broken_stream() {
    for (const prompt of [SITE.cut, SITE.cut_mid_line, SITE.reset, SITE.error_line]) {
      const stream = await client().generate({ model: SITE.model, prompt, stream: true })
      const error = await raised(() => all(stream), 'Error')
      // What the client itself says of a stream that just ends would mean that the gate had told nothing.
      expect(!error.message.startsWith('Did not receive done'), `the text of an error for ${prompt}`)
    }
  },

  async no_key() {
    await refused(() => client(null).list(), 401, SITE.says.no_key)
    await refused(() => client(null).chat({ model: SITE.model, messages: HELLO }), 401, SITE.says.no_key)
  },

  async wrong_key() {
    const own = client(SITE.keys.wrong)
    await refused(() => own.chat({ model: SITE.model, messages: HELLO, stream: true }), 401, SITE.says.wrong_key)
  },

  async closed_route() {
    const reader = client(SITE.keys.reader)
    expect((await reader.list()).models.length > 0, 'the list for a key that may read')
    await refused(() => reader.generate({ model: SITE.model, prompt: 'Hello' }), 403, SITE.says.closed_route)
    await refused(() => client().pull({ model: 'tinyllama' }), 403, SITE.says.closed_route)
  },

  async manages() {
    const keeper = client(SITE.keys.keeper)
    const parts = await all(await keeper.pull({ model: 'tinyllama', stream: true }))
    expect(parts.at(-1).status === 'success', 'a pull that ends well')
    expect((await keeper.delete({ model: 'tinyllama' })).status === 'success', 'the model deleted')
  },

  async unknown_model() {
    const text = SITE.says.not_found.replace('{model}', 'no-such-model')
    await refused(() => client().generate({ model: 'no-such-model', prompt: 'Hello' }), 404, text)
    await refused(() => client().chat({ model: 'no-such-model', messages: HELLO, stream: true }), 404, text)
    await refused(() => client().show({ model: 'no-such-model' }), 404, 'no-such-model')
  },

  async hidden_model() {
    const other = client(SITE.keys.other)
    const answer = await other.chat({ model: SITE.other, messages: HELLO })
    expect(answer.message.content, "an answer from the key's own model")
    const text = SITE.says.not_found.replace('{model}', SITE.model)
    await refused(() => other.chat({ model: SITE.model, messages: HELLO }), 404, text)
  },

  async over_limit() {
    const hasty = client(SITE.keys.hasty)
    const meetIt = async () => {
      for (let count = 0; count <= SITE.hasty_limit; count++) await hasty.generate({ model: SITE.model, prompt: 'Hi' })
    }
    await refused(meetIt, 429, SITE.says.over_limit)
  },

  async full() {
    await backendRests()
    const own = client(null, SITE.busy)
    const holder = await own.generate({ model: SITE.model, prompt: SITE.endless, stream: true })
    await refused(() => own.generate({ model: SITE.model, prompt: 'Hello' }), 503, SITE.says.full)
    await leaves('/api/generate', holder, () => holder.abort())
  },
})
