// npm's `openai` against our Chat Completions: once as a stream with its usage, once in one piece.
import OpenAI from 'openai';

const [, , baseURL, question] = process.argv;
const client = new OpenAI({ baseURL, apiKey: 'k' });
const messages = [{ role: 'user', content: question }];

const chunks = [];
const stream = await client.chat.completions.create({
  model: 'm',
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) chunks.push(chunk);
const streamed = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');

const whole = await client.chat.completions.create({ model: 'm', messages });
console.log(
  JSON.stringify({ streamed, usage: chunks.at(-1).usage, whole: whole.choices[0].message, reason: whole.choices[0].finish_reason }),
);
