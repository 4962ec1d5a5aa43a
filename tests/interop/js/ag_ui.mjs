// @ag-ui/client: `node ag_ui.mjs address thread how` prints what the page had in the end, as JSON. `how`: "keeps" for a
// page that connects with what it has, "repeats" for one that runs again under the same id, "reloads" for one that
// connects with nothing, "old" for a client before 1.0 that keeps. It comes back until the run has ended.

import { HttpAgent, runHttpRequest, transformHttpEventStream } from '@ag-ui/client';

process.on('unhandledRejection', () => {}); // each cut is one, besides the error that the client reports
console.error = () => {};

class Resumable extends HttpAgent {
  connect(input) {
    return transformHttpEventStream(runHttpRequest(() => fetch(`${this.url}/connect`, this.requestInit(input))));
  }
}

class Old extends Resumable {
  get maxProtocolVersion() {
    return '0.0.59';
  }
}

const [address, threadId, how] = process.argv.slice(2);
const message = { id: 'u1', role: 'user', content: 'What does the river say?' };
const events = [];
let end = null;
const page = (initialMessages) =>
  new (how === 'old' ? Old : Resumable)({ url: `${address}/ag-ui`, threadId, initialMessages });
const watch = {
  onEvent: ({ event }) => void events.push(event),
  onRunFinishedEvent: ({ event }) => void (end = event),
  onRunErrorEvent: ({ event }) => void (end = event),
};

let agent = page([message]);
let connections = 0;
let begun = false;
while (end === null) {
  connections += 1;
  try {
    if (begun && how !== 'repeats') await agent.connectAgent({}, watch);
    else await agent.runAgent({ runId: `run-${threadId}` }, watch);
  } catch (error) {
    if (error.name === 'AGUIError') throw error;
    begun = error.status !== 404; // it may have been cut off before the server had read it
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  if (end === null && how === 'reloads' && begun) agent = page([]);
}
process.stdout.write(JSON.stringify({ messages: agent.messages, connections, end, events, pending: agent.pendingInterrupts }));
