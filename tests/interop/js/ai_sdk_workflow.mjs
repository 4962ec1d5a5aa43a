// The AI SDK's WorkflowChatTransport, which reconnects by itself: `node ai_sdk_workflow.mjs url chat question`. Prints the
// chunks that it delivered, those of a replay after a reload, the last one, and the text of the chat, as JSON.

import { Chat } from '@ai-sdk/react';
import { WorkflowChatTransport } from '@ai-sdk/workflow/client';

const [url, id, question] = process.argv.slice(2);
const chunks = [];
let reconnects = 0;

class Recording extends WorkflowChatTransport {
  async sendMessages(options) {
    const stream = await super.sendMessages(options);
    const transform = (chunk, controller) => {
      chunks.push(chunk);
      controller.enqueue(chunk);
    };
    return stream.pipeThrough(new TransformStream({ transform }));
  }
}

const options = {
  api: `${url}/api/chat`,
  maxConsecutiveErrors: 1000,
  fetch: (address, init) => {
    if (init?.method !== 'POST') reconnects++;
    return fetch(address, init);
  },
  prepareSendMessagesRequest: ({ id, messages, trigger, messageId }) => ({
    headers: { 'content-type': 'application/json' },
    body: { id, messages, trigger, messageId },
  }),
};

async function all(transport) {
  const got = [];
  for await (const chunk of await transport.reconnectToStream({ chatId: id })) got.push(chunk);
  return got;
}

const chat = new Chat({ id, transport: new Recording(options) });
await chat.sendMessage({ text: question });
const lost = reconnects;
const replay = await all(new WorkflowChatTransport(options));
const tail = await all(new WorkflowChatTransport({ ...options, initialStartIndex: -1 }));
const text = chat.lastMessage.parts.map((part) => (part.type === 'text' ? part.text : '')).join('');
process.stdout.write(JSON.stringify({ chunks, replay, tail, text, status: chat.status, reconnects: lost }));
