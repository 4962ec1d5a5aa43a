// npm's `openai` against our Responses API: started once, cut off at will, continued after the last number that came.
import OpenAI from 'openai';

const [, , baseURL, question] = process.argv;
const client = new OpenAI({ baseURL, apiKey: 'k', maxRetries: 3 });
const events = [];
let id = null;

while (events.at(-1)?.type !== 'response.completed') {
  try {
    const stream =
      id === null
        ? await client.responses.create(
            { input: question, background: true, stream: true },
            { headers: { 'Idempotency-Key': 'js' } },
          )
        : await client.responses.retrieve(id, { stream: true, starting_after: events.at(-1).sequence_number });
    for await (const event of stream) {
      events.push(event);
      id ??= event.response.id;
    }
  } catch (error) {
    if (error.status) throw error;
  }
}

const status = (promise) => promise.then(() => 200, (error) => error.status);
const response = await client.responses.retrieve(id);
const text = response.output
  .flatMap((item) => (item.type === 'message' ? item.content : []))
  .map((part) => part.text)
  .join('');
const cancelled = await status(client.responses.cancel(id));
const missing = await status(client.responses.retrieve('resp_none'));
console.log(JSON.stringify({ events, text, cancelled, missing }));
