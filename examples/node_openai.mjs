// OpenAI's JavaScript client behind the gate: node_openai.mjs BASE_URL [KEY]
//
// `npm install openai`. Two things differ from a program that asks OpenAI: baseURL is the gate's address with /v1
// behind it, and apiKey is a key of the gate's. The client insists on some key; a gate without keys takes any.
//
//     cargo run --release -- --demo &
//     node examples/node_openai.mjs http://127.0.0.1:8000

import OpenAI from 'openai'

const [base, key = 'none'] = process.argv.slice(2)
if (!base) {
  console.error('usage: node_openai.mjs BASE_URL [KEY]')
  process.exit(1)
}
// A request that meets a limit or a full queue is tried again when the gate's Retry-After says, so many times.
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: key, maxRetries: 2 })

const models = []
for await (const model of client.models.list()) models.push(model.id)
console.log('models:', models.join(', '))
const model = models[0]

const messages = [{ role: 'user', content: 'Why is the sky blue?' }]
const answer = await client.chat.completions.create({ model, messages, max_tokens: 12 })
console.log('chat:', answer.choices[0].message.content)
console.log('tokens:', answer.usage.prompt_tokens, '+', answer.usage.completion_tokens)

process.stdout.write('stream: ')
for await (const part of await client.chat.completions.create({ model, messages, max_tokens: 12, stream: true })) {
  process.stdout.write(`${part.choices[0].delta.content ?? ''}|`)
}
console.log()

// Leaving a stream early is fine: the gate notices and cancels the generation.
const story = await client.completions.create({ model, prompt: 'A long story, please.', stream: true })
for await (const part of story) {
  console.log('first part of a story:', part.choices[0].text)
  break
}

// Refusals arrive as the exceptions that OpenAI's own do.
try {
  await client.chat.completions.create({ model: 'no-such-model', messages })
  process.exitCode = 1
} catch (error) {
  if (!(error instanceof OpenAI.NotFoundError)) throw error
  console.log('refused:', error.message)
}
