// @copilotkit/core: `node copilotkit.mjs address thread what [transport]` prints what a page had in the end, as JSON.
// `what`: "run", "stop" (run, and abort once something is there), "connect", or "again": connect twice, keeping.

globalThis.window = globalThis; // without one it takes itself for a server, and asks no runtime
const { CopilotKitCore } = await import('@copilotkit/core');

process.on('unhandledRejection', () => {});
console.error = console.warn = () => {};

const [address, threadId, what, runtimeTransport = 'auto'] = process.argv.slice(2);
const core = new CopilotKitCore({ runtimeUrl: `${address}/copilotkit`, runtimeTransport });
await new Promise((resolve) => {
  const look = setInterval(() => {
    if (core.runtimeConnectionStatus !== 'connected') return;
    clearInterval(look);
    resolve();
  }, 5);
});
const agent = core.getAgent('default');
agent.threadId = threadId;
const events = [];
let stopping = false;
agent.subscribe({
  onEvent: ({ event }) => {
    events.push(event);
    if (what === 'stop' && event.type === 'TEXT_MESSAGE_CONTENT' && !stopping) {
      stopping = true;
      agent.abortRun();
    }
  },
});
const done = new Promise((resolve) => agent.subscribe({ onRunFinalized: resolve, onRunFailed: resolve }));
if (what === 'run' || what === 'stop') {
  agent.addMessage({ id: `u${process.pid}`, role: 'user', content: 'What does the river say?' });
  await core.runAgent({ agent });
} else {
  await core.connectAgent({ agent });
  if (what === 'again') await core.connectAgent({ agent });
}
await done;
process.stdout.write(JSON.stringify({ messages: agent.messages, events, agents: Object.keys(core.agents) }));
process.exit(0);
