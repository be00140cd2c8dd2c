// OpenAI's JavaScript client against the gate: node_openai.mjs SITE.json

import OpenAI from 'openai'

import { Journal, SITE, all, backendRests, expect, leaves, raised, run } from './checks.mjs'

const ANSWER_MS_MAX = 30_000
const HELLO = [{ role: 'user', content: 'Hello' }]
const PARAMETERS = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }
const WEATHER = { name: 'weather', description: 'Tells the weather of a city.', parameters: PARAMETERS }
const TOOLS = [{ type: 'function', function: WEATHER }]

function client(apiKey = SITE.keys.all, { base = SITE.keyed, ...more } = {}) {
  return new OpenAI({ baseURL: `${base}/v1`, apiKey, timeout: ANSWER_MS_MAX, maxRetries: 0, ...more })
}

function busy(more = {}) {
  // The client insists on a key; a gate without keys takes any.
  return client('unused', { base: SITE.busy, ...more })
}

function ask(own, more = {}) {
  return own.chat.completions.create({ model: SITE.model, messages: HELLO, ...more })
}

function says(prompt) {
  return [{ role: 'user', content: prompt }]
}

function askEndlessly(own) {
  return ask(own, { messages: says(SITE.endless), stream: true })
}

async function refused(call, { kind, text, type, code = null }) {
  const error = await raised(call, kind)
  expect(error.message.includes(text), `a text with '${text}', not '${error.message}'`)
  expect(error.type === type, `the type ${type}, not ${error.type}`)
  expect((error.code ?? null) === code, `the code ${code}, not ${error.code}`)
}

const noKey = { kind: 'AuthenticationError', type: 'authentication_error', code: 'invalid_api_key' }
const denied = { kind: 'PermissionDeniedError', type: 'permission_error', text: SITE.says.closed_route }
const notFound = { kind: 'NotFoundError', type: 'not_found_error' }

await run({
  async lists() {
    const names = async (own) => (await all(own.models.list())).map((model) => model.id).sort().join()
    const every = [SITE.model, SITE.other, SITE.embedder].sort().join()
    const found = await names(client())
    expect(found === every, `all models in the list, not ${found}`)
    expect((await names(client(SITE.keys.other))) === SITE.other, 'only what the key may use in the list')
  },

  async open_gate() {
    const answer = await ask(client('unused', { base: SITE.open }))
    expect(answer.choices[0].message.content, 'an answer from a gate without keys')
  },

  async show() {
    const model = await client().models.retrieve(SITE.model)
    expect(model.id === SITE.model && model.object === 'model', 'the model')
  },

  async generate() {
    const answer = await client().completions.create({ model: SITE.model, prompt: 'Why is the sky blue?' })
    expect(answer.choices[0].text && answer.usage.completion_tokens > 0, 'a whole completion with its counts')
  },

  async chat() {
    const answer = await ask(client(), { max_tokens: 5 })
    expect(answer.choices[0].message.role === 'assistant' && answer.choices[0].message.content, 'the message')
    expect(answer.choices[0].finish_reason === 'length', 'an end by length')
    expect(answer.usage.completion_tokens === 5, `5 tokens: ${answer.usage}`)
  },

  async stream() {
    let parts = await all(await ask(client(), { stream: true }))
    expect(parts.length > 2 && parts.every((part) => !part.usage), 'several parts, no usage that was not asked for')
    expect(parts.map((part) => part.choices[0].delta.content ?? '').join(''), 'some text')
    expect(parts.at(-1).choices[0].finish_reason === 'stop', 'a reason for the end')
    parts = await all(await ask(client(), { stream: true, stream_options: { include_usage: true } }))
    expect(parts.at(-1).usage.completion_tokens > 2 && !parts.at(-1).choices.length, 'the usage that was asked for')
  },

  async tools() {
    const messages = says(SITE.tool_prompt)
    let { message, finish_reason: reason } = (await ask(client(), { messages, tools: TOOLS })).choices[0]
    const calls = message.tool_calls ?? []
    expect(calls.length === 1 && calls[0].function.name === 'weather', `a call of the tool: ${JSON.stringify(message)}`)
    expect(typeof JSON.parse(calls[0].function.arguments) === 'object' && reason === 'tool_calls', 'its arguments')
    messages.push(message, { role: 'tool', tool_call_id: calls[0].id, content: 'sunny' })
    message = (await ask(client(), { messages, tools: TOOLS })).choices[0].message
    expect(message.content && !message.tool_calls?.length, "an answer from the tool's result")
  },

  async responses() {
    const answer = await client().responses.create({ model: SITE.model, input: 'Hello' })
    expect(answer.status === 'completed' && answer.output_text, 'a response')
    const events = await all(await client().responses.create({ model: SITE.model, input: 'Hello', stream: true }))
    expect(events[0].type === 'response.created' && events.at(-1).type === 'response.completed', 'first and last event')
    const deltas = events.filter((event) => event.type === 'response.output_text.delta')
    expect(deltas.map((event) => event.delta).join('') === answer.output_text, 'the same text either way')
  },

  async embed() {
    // The client asks for base64 unless told otherwise, and decodes it.
    const input = ['one', 'two']
    const answer = await client().embeddings.create({ model: SITE.embedder, input })
    const plain = await client().embeddings.create({ model: SITE.embedder, input, encoding_format: 'float' })
    const [left, right] = [answer, plain].map((own) => own.data[1].embedding)
    expect(answer.data.length === 2 && left.length > 1 && left.length === right.length, 'a vector for each input')
    expect(left.every((value, row) => Math.abs(value - right[row]) < 1e-5), 'the same vectors in either form')
  },

  async cancel() {
    const parts = await askEndlessly(client())
    await leaves('/v1/chat/completions', parts, () => parts.controller.abort())
    const events = await client().responses.create({ model: SITE.model, input: SITE.endless, stream: true })
    await leaves('/v1/responses', events, () => events.controller.abort())
  },

  async broken_stream() {
    const own = client()
    for (const prompt of [SITE.cut, SITE.cut_mid_line, SITE.reset, SITE.error_line]) {
      for (const begin of [
        () => ask(own, { messages: says(prompt), stream: true }),
        () => own.completions.create({ model: SITE.model, prompt, stream: true }),
        () => own.responses.create({ model: SITE.model, input: prompt, stream: true }),
      ]) {
        const stream = await begin()
        const error = await raised(() => all(stream), 'APIError')
        expect(error.message, `a text for ${prompt}`)
      }
    }
  },

  async no_key() {
    // The client does not work without a key, but one can keep it from being sent.
    const own = client('unused', { defaultHeaders: { Authorization: null } })
    await refused(() => ask(own), { ...noKey, text: SITE.says.no_key })
  },

  async wrong_key() {
    const own = client(SITE.keys.wrong)
    await refused(() => ask(own), { ...noKey, text: SITE.says.wrong_key })
    await refused(() => ask(own, { stream: true }), { ...noKey, text: SITE.says.wrong_key })
  },

  async closed_route() {
    const reader = client(SITE.keys.reader)
    expect((await all(reader.models.list())).length > 0, 'the list for a key that may read')
    await refused(() => ask(reader), denied)
    await refused(() => reader.embeddings.create({ model: SITE.embedder, input: 'Hello' }), denied)
  },

  async unknown_model() {
    const text = SITE.says.not_found.replace('{model}', 'no-such-model')
    await refused(() => ask(client(), { model: 'no-such-model' }), { ...notFound, text })
    await refused(() => client().models.retrieve('no-such-model'), { ...notFound, text: 'no-such-model' })
  },

  async hidden_model() {
    const other = client(SITE.keys.other)
    const answer = await ask(other, { model: SITE.other })
    expect(answer.choices[0].message.content, "an answer from the key's own model")
    await refused(() => ask(other), { ...notFound, text: SITE.says.not_found.replace('{model}', SITE.model) })
  },

  async bad_request() {
    const terms = { kind: 'BadRequestError', text: 'messages', type: 'invalid_request_error' }
    await refused(() => ask(client(), { messages: [] }), terms)
  },

  async over_limit() {
    const hasty = client(SITE.keys.hasty)
    const meetIt = async () => {
      for (let count = 0; count <= SITE.hasty_limit; count++) await ask(hasty, { max_tokens: 1 })
    }
    const terms = { kind: 'RateLimitError', type: 'rate_limit_error', code: 'rate_limit_exceeded' }
    await refused(meetIt, { ...terms, text: SITE.says.over_limit })
  },

  async full() {
    await backendRests()
    const holder = await askEndlessly(busy())
    await refused(() => ask(busy()), { kind: 'InternalServerError', text: SITE.says.full, type: 'api_error' })
    const error = await raised(() => ask(busy()), 'InternalServerError')
    expect(error.status === 503, `status 503, not ${error.status}`)
    await leaves('/v1/chat/completions', holder, () => holder.controller.abort())
  },

  async waits_for_its_limit() {
    const journal = new Journal()
    const patient = client(SITE.keys.patient, { maxRetries: 2, fetch: journal.fetch })
    for (let count = 0; count < 2; count++) await ask(patient, { max_tokens: 1 })
    journal.showsPatience(429)
  },

  async waits_for_room() {
    await backendRests()
    const holder = await askEndlessly(busy())
    const journal = new Journal()
    journal.onRefusal = () => holder.controller.abort()
    await ask(busy({ maxRetries: 2, fetch: journal.fetch }), { max_tokens: 1 })
    journal.showsPatience(503)
  },
})
