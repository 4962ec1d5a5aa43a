// The public API as a user writes it, for the type checker: this must compile, and each marked line must not.

import { Client, Decoder, Fold, newId, TERMINAL, UnspoolError } from 'unspool-client';
import type { FollowOptions, Message, Outcome, Part, Record, Started, State, StreamState, Summary } from 'unspool-client';

const messages: Message[] = [
  { role: 'system', content: 'Be brief.' },
  { role: 'user', content: [{ type: 'text', text: 'Rivers?' }] },
  { role: 'assistant', content: null, tool_calls: [{ id: 'c1' }] },
];

const client = new Client('https://example.org/api', {
  headers: async () => ({ authorization: `Bearer ${await Promise.resolve('token')}` }),
  fetch: (address, options) => fetch(address, { ...options, credentials: 'include' }),
  attempts: 3,
  silence: 20_000,
});
const others: Client[] = [new Client(), new Client(new URL('https://example.org')), new Client('', { headers: [['a', 'b']] })];

function show(state: State): string {
  switch (state.name) {
    case 'connecting':
    case 'live':
    case 'resting':
      return state.name;
    case 'waiting':
    case 'offline':
      return `${state.error.code} until ${new Date(state.until).toISOString()}`;
  }
}

function render(part: Part): string {
  if (part.type === 'text' || part.type === 'reasoning') return part.text;
  if (part.type === 'tool') return `${part.name ?? 'a tool'}: ${part.status}, ${part.arguments.length}`;
  return part.type;
}

export async function chat(streamId: string, signal: AbortSignal): Promise<string> {
  const started: Started = await client.start(streamId, {
    messages, model: 'small', requestId: newId(), expectGeneration: 0, metadata: { source: 'page' }, signal,
  });
  const options: FollowOptions = { generation: started.generation, after: 2, restAfter: 60_000, signal, onState: show };
  const fold = new Fold();
  for await (const record of client.follow(streamId, options)) {
    const { offset, type, data }: Record = record;
    if (type === 'sync') fold.restore(data as unknown as StreamState);
    else fold.apply({ offset, type, data });
    if (TERMINAL.has(type)) break;
  }
  const first: IteratorResult<Record, void> = await client.follow(streamId, { snapshot: true }).next();
  const outcome: Outcome = await client.stop(streamId, { generation: started.generation, reason: 'enough' });
  const ended: string | undefined = outcome.final?.type;
  const state: StreamState = await client.status(streamId, { generation: 1 });
  const running: Summary[] = await client.list({ status: 'running', limit: 10 });
  return [...fold.parts.map(render), state.text, ended, running[0]?.stream_id, first.done, others.length].join('\n');
}

export async function careful(): Promise<number> {
  try {
    await client.status('s');
    return 0;
  } catch (error) {
    if (!(error instanceof UnspoolError)) throw error;
    const shape: { code: string; status: number; retryAfter: number; retryable: boolean } = error;
    return shape.status + String(error.problem['detail']).length;
  }
}

export function decode(bytes: Uint8Array): string[] {
  const decoder = new Decoder();
  const wait: number = decoder.retry ?? 1000;
  return decoder.feed(bytes).map(({ type, data, id }) => `${type} ${data} ${id} ${wait} ${decoder.lastEventId}`);
}

// What must not compile.

// @ts-expect-error: messages are what a generation is started with
void client.start('s', {});
// @ts-expect-error: no such role
void client.start('s', { messages: [{ role: 'robot', content: 'x' }] });
// @ts-expect-error: an offset is a number
void client.follow('s', { after: '7' });
// @ts-expect-error: it is a stream, not a promise
void client.follow('s').then();
// @ts-expect-error: no such status
void client.list({ status: 'done' });
// @ts-expect-error: an answer has no such field
void client.status('s').then(({ words }) => words);
// @ts-expect-error: what was received is not changed
void client.follow('s').next().then(({ value }) => value && (value.offset = 1));
// @ts-expect-error: so are the terminal types
TERMINAL.add('x');
// @ts-expect-error: what the server says of itself is text
const code: number = new UnspoolError('x').code;
// @ts-expect-error: only bytes are decoded
new Decoder().feed('text');
// @ts-expect-error: there is no such option
void new Client('', { token: 'x' });

export { code };
