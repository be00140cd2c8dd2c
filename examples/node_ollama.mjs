// Ollama's own JavaScript client behind the gate: node_ollama.mjs BASE_URL [KEY]
//
// `npm install ollama`. The client needs the gate's address as its host and, where the gate has keys, one of them as a
// header.
//
//     cargo run --release -- --demo &
//     node examples/node_ollama.mjs http://127.0.0.1:8000

import { Ollama } from 'ollama'

const [host, key] = process.argv.slice(2)
if (!host) {
  console.error('usage: node_ollama.mjs BASE_URL [KEY]')
  process.exit(1)
}
const client = new Ollama({ host, headers: key ? { Authorization: `Bearer ${key}` } : {} })

const { models } = await client.list()
console.log('models:', models.map((model) => model.model).join(', '))
const model = models[0].model

const messages = [{ role: 'user', content: 'Why is the sky blue?' }]
const options = { num_predict: 12 }
const answer = await client.chat({ model, messages, options })
console.log('chat:', answer.message.content)
console.log('tokens:', answer.prompt_eval_count, '+', answer.eval_count)

process.stdout.write('stream: ')
for await (const part of await client.chat({ model, messages, options, stream: true })) {
  process.stdout.write(`${part.message.content}|`)
}
console.log()

// Leaving a stream early is fine: the gate notices and cancels the generation.
const story = await client.generate({ model, prompt: 'A long story, please.', stream: true })
for await (const part of story) {
  console.log('first part of a story:', part.response)
  break
}
story.abort()

// Refusals arrive as the client's own exception, which it does not export by name.
try {
  await client.chat({ model: 'no-such-model', messages })
  process.exitCode = 1
} catch (error) {
  if (error.name !== 'ResponseError') throw error
  console.log(`refused with ${error.status_code}: ${error.error}`)
}
