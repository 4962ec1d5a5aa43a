// The AI SDK's useChat in jsdom: `node ai_sdk_react.mjs url chat question`. The component is unmounted wherever its stream
// is cut off, and once in the middle, and mounted again with `resume: true`, as a reload does. Prints JSON.

import { JSDOM } from 'jsdom';

const dom = new JSDOM('<!doctype html><main></main>', { url: 'http://127.0.0.1/' });
const { window } = dom;
for (const [name, value] of Object.entries({ window, document: window.document, navigator: window.navigator }))
  Object.defineProperty(globalThis, name, { value, configurable: true });
const { createElement } = await import('react');
const { createRoot } = await import('react-dom/client');
const { useChat } = await import('@ai-sdk/react');
const { DefaultChatTransport } = await import('ai');

const [url, id, question] = process.argv.slice(2);
const pause = () => new Promise((resolve) => setTimeout(resolve, 5));
const transport = new DefaultChatTransport({ api: `${url}/api/chat` });
let now;
let reason;

function Page({ resume, messages }) {
  now = useChat({ id, messages, resume, transport, onFinish: ({ finishReason }) => (reason ??= finishReason) });
  return createElement('pre', null, text());
}

const text = () =>
  now.messages.flatMap(({ role, parts }) => (role === 'user' ? [] : parts)).map((part) => part.text ?? '').join('');

function mount(props) {
  const root = createRoot(document.querySelector('main'));
  root.render(createElement(Page, props));
  return root;
}

let root = mount({});
while (now === undefined) await pause();
void now.sendMessage({ text: question });
while (now.messages.length === 0 || now.status === 'ready') await pause();
const sent = now.messages.filter(({ role }) => role === 'user');
while (text() === '' && now.status !== 'error') await pause();
const before = text().length;
let mounts = 1;
while (reason === undefined) {
  root.unmount();
  await pause();
  root = mount({ resume: true, messages: sent });
  mounts++;
  do await pause();
  while (reason === undefined && now.status !== 'error');
}
await pause();
const last = now.messages.at(-1);
const shown = document.querySelector('pre').textContent;
const report = { before, mounts, reason, shown, status: now.status, count: now.messages.length, ...last };
process.stdout.write(JSON.stringify(report), () => process.exit());
