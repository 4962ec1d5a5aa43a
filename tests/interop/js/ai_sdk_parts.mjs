// What the AI SDK makes of streams that it is given: reads [[part, …], …] from its standard input, puts each through the
// schema, through Chat as an answer and as a replay, and through the workflow transport's check; prints JSON.

import { Chat } from '@ai-sdk/react';
import { safeValidateTypes } from '@ai-sdk/provider-utils';
import { WorkflowChatTransport } from '@ai-sdk/workflow/client';
import { uiMessageChunkSchema } from 'ai';

let input = '';
for await (const piece of process.stdin) input += piece;

const textOf = (message, type) =>
  (message?.parts ?? []).map((part) => (part.type === type ? part.text : '')).join('');

const streamOf = (parts) =>
  new ReadableStream({
    start(controller) {
      for (const part of parts) controller.enqueue(structuredClone(part));
      controller.close();
    },
  });

const encoded = (parts) => parts.map((part) => `data: ${JSON.stringify(part)}\n\n`).join('') + 'data: [DONE]\n\n';

async function seen(parts, transport, run) {
  const chat = new Chat({ transport });
  await run(chat);
  const message = chat.lastMessage;
  const [text, thought] = [textOf(message, 'text'), textOf(message, 'reasoning')];
  return { status: chat.status, error: chat.error?.message, ended: message?.metadata?.ended, text, thought };
}

async function tried(parts) {
  const invalid = [];
  for (const part of parts) {
    const { success } = await safeValidateTypes({ value: part, schema: uiMessageChunkSchema });
    if (!success) invalid.push(part);
  }
  const given = {
    resumeStreamIsReplay: true,
    sendMessages: async () => streamOf(parts),
    reconnectToStream: async () => streamOf(parts),
  };
  const headers = { 'x-workflow-run-id': 'r' };
  const workflow = new WorkflowChatTransport({ fetch: async () => new Response(encoded(parts), { headers }) });
  const ask = (chat) => chat.sendMessage({ text: 'hi' });
  return {
    invalid,
    answer: await seen(parts, given, ask),
    replay: await seen(parts, given, (chat) => ask(chat).then(() => chat.resumeStream())),
    workflow: await seen(parts, workflow, ask),
  };
}

const all = [];
for (const parts of JSON.parse(input)) all.push(await tried(parts));
process.stdout.write(JSON.stringify(all));
