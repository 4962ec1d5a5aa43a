// A chat over CopilotKit's runtime routes: reload it, open it twice, cut it off; it shows what there is and goes on.

import { CopilotKitCore } from '@copilotkit/core';

const threadId = location.hash.slice(1) || crypto.randomUUID();
location.hash = threadId;

const core = new CopilotKitCore({ runtimeUrl: '/copilotkit' });
const stop = document.getElementById('stop');
const text = document.getElementById('text');
const list = document.getElementById('messages');

const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
while (core.runtimeConnectionStatus !== 'connected') await wait(20);

const agent = core.getAgent('default');
agent.threadId = threadId;

let ended = true; // every run that began has told its end
agent.subscribe({
  onRunStartedEvent: () => void (ended = false),
  onRunFinishedEvent: () => void (ended = true),
  onRunErrorEvent: () => void (ended = true),
  onMessagesChanged: show,
});

function show() {
  list.replaceChildren(
    ...agent.messages.map((message) => {
      const line = document.createElement('div');
      line.className = message.role;
      const calls = (message.toolCalls ?? []).map((call) => `${call.function.name}(${call.function.arguments})`);
      line.textContent = [message.content, ...calls].filter(Boolean).join('\n');
      return line;
    }),
  );
}

/** Run or connect, and come back as often as it is cut off before the end. */
async function follow(begin) {
  stop.disabled = false;
  for (let next = begin; ; next = () => core.connectAgent({ agent })) {
    await next().catch(() => {}); // a cut; the end was not told
    if (ended) break;
    await wait(500);
  }
  stop.disabled = true;
}

document.getElementById('form').addEventListener('submit', (event) => {
  event.preventDefault();
  if (!text.value || !stop.disabled) return;
  agent.addMessage({ id: crypto.randomUUID(), role: 'user', content: text.value });
  text.value = '';
  show();
  void follow(() => core.runAgent({ agent }));
});
stop.addEventListener('click', () => agent.abortRun());
addEventListener('unhandledrejection', (event) => event.preventDefault()); // each cut is one, besides its error

await follow(() => core.connectAgent({ agent }));
