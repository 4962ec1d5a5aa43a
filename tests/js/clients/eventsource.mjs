// npm's eventsource: `node eventsource.mjs address type...` prints what it was given, as JSON. Nobody closes it: it comes
// back after the terminal event too, and must be told for good that there is no more.

import { EventSource } from 'eventsource';

const [address, ...types] = process.argv.slice(2);
const got = [];
const waiting = setInterval(() => {}, 1000); // its own timer for coming back keeps no process alive
const source = new EventSource(address);
for (const type of types)
  source.addEventListener(type, ({ lastEventId, data }) => got.push([lastEventId, type, JSON.parse(data)]));
source.addEventListener('message', () => got.push(['', 'message', null])); // what has no type is none of ours
source.addEventListener('error', () => {
  if (source.readyState !== EventSource.CLOSED) return;
  clearInterval(waiting);
  process.stdout.write(JSON.stringify(got));
});
