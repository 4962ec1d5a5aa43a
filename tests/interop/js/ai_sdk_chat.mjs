// The AI SDK's Chat: `node ai_sdk_chat.mjs cuts|tabs|stop default|websocket url chat question`. Prints what each tab has
// in the end, as JSON. A tab that is cut off asks for its stream anew until it has seen the answer's end.

import { Chat } from '@ai-sdk/react';
import { DefaultChatTransport, WebSocketChatTransport } from 'ai';
import WebSocket from 'ws';

const [mode, name, url, id, question] = process.argv.slice(2);
const pause = () => new Promise((resolve) => setTimeout(resolve, 5));

class Tab {
  reason;
  resumes = 0;

  constructor(messages = []) {
    const transport =
      name === 'websocket'
        ? new WebSocketChatTransport({ url: `${url}/api/chat/ws`, webSocket: WebSocket })
        : new DefaultChatTransport({ api: `${url}/api/chat` });
    const onFinish = ({ finishReason }) => (this.reason ??= finishReason);
    this.chat = new Chat({ id, messages, transport, onFinish });
  }

  async finished() {
    while (this.reason === undefined) {
      await pause();
      this.resumes++;
      await this.chat.resumeStream();
    }
  }

  get text() {
    return (this.chat.lastMessage?.parts ?? []).map((part) => (part.type === 'text' ? part.text : '')).join('');
  }

  get report() {
    const { messages, status, lastMessage } = this.chat;
    return { text: this.text, reason: this.reason, resumes: this.resumes, status, count: messages.length, ...lastMessage };
  }
}

const first = new Tab();
const tabs = [first];
const sending = first.chat.sendMessage({ text: question });
while (first.chat.messages.length === 0) await pause();
if (mode === 'tabs') {
  const second = new Tab([...first.chat.messages]);
  tabs.push(second);
  await Promise.all([sending.then(() => first.finished()), second.finished()]);
} else if (mode === 'stop') {
  while (first.text === '' || first.chat.lastMessage.role === 'user') await pause();
  if (name === 'websocket') {
    await first.chat.stop();
    // Who asks for it anew at once has not stopped it: that is what a component does that is mounted again.
    while ((await (await fetch(`${url}/v1/streams/${encodeURIComponent(id)}`)).json()).active) await pause();
  } else {
    const body = JSON.stringify({ activeStreamId: first.chat.lastMessage.metadata.runId });
    const headers = { 'content-type': 'application/json' };
    await fetch(`${url}/api/chat/${encodeURIComponent(id)}/stop`, { method: 'POST', headers, body });
  }
  await sending;
  await first.finished();
} else {
  await sending;
  await first.finished();
}
process.stdout.write(JSON.stringify(tabs.map((tab) => tab.report)), () => process.exit());
