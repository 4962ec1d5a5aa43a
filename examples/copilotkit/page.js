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

let begun, ended, failed; // of the last request
agent.subscribe({
  onRunInitialized: () => void (begun = ended = failed = false),
  onRunStartedEvent: () => void ([begun, ended] = [true, false]),
  onRunFinishedEvent: () => void (ended = true),
  onRunErrorEvent: () => void (ended = true),
  onRunFailed: () => void (failed = true),
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
  list.scrollTop = list.scrollHeight;
}

/** Ask, or with nothing to ask connect; and come back as often as it is cut off before the end. */
async function follow(message) {
  stop.disabled = false;
  for (let ask = message !== undefined; ; ) {
    if (ask && !has(message)) agent.addMessage(message);
    await (ask ? core.runAgent({ agent }) : core.connectAgent({ agent })).catch(() => {});
    const known = begun && (message === undefined || has(message));
    if ((ended && known) || (message === undefined && !begun && !failed)) break; // told to its end; or a new thread
    await wait(500);
    ask = message !== undefined && !ask && !failed && !known; // the server has never read it
  }
  stop.disabled = true;
}

function has(message) {
  return agent.messages.some(({ id }) => id === message.id);
}

document.getElementById('form').addEventListener('submit', (event) => {
  event.preventDefault();
  if (!text.value || !stop.disabled) return;
  void follow({ id: crypto.randomUUID(), role: 'user', content: text.value });
  text.value = '';
  show();
});
stop.addEventListener('click', () => agent.abortRun());
addEventListener('unhandledrejection', (event) => event.preventDefault()); // each cut is one, besides its error

await follow();
text.disabled = false; // before that a question would not be heard
text.focus();
