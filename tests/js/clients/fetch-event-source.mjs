// npm's @microsoft/fetch-event-source: `node fetch-event-source.mjs address [bare]` prints what it was given, as JSON.

// It was written for pages, and asks these two for timers, fetch and whether it is looked at.
globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
const { fetchEventSource } = await import('@microsoft/fetch-event-source');

const [address, bare] = process.argv.slice(2);
const got = [];
const controller = new AbortController();

// Its own position moves at the `id:` line. Where the connection breaks between that line and the blank line after it,
// the event is lost; so the position is that of the last event that was whole.
const fromTheLastWhole = (input, { headers, ...options }) => {
  const { 'last-event-id': _, ...others } = headers;
  const position = got.at(-1)?.[0];
  return fetch(input, { ...options, headers: position ? { ...others, 'last-event-id': position } : others });
};

await fetchEventSource(address, {
  signal: controller.signal,
  fetch: bare ? undefined : fromTheLastWhole,
  onmessage({ id, event, data }) {
    got.push([id, event, data === '' ? null : JSON.parse(data)]); // it makes messages of what has no data, too
    if (event === 'completed') controller.abort();
  },
  onclose() {
    throw new Error('the connection was closed'); // what its documentation says for those who want to come back
  },
});
process.stdout.write(JSON.stringify(got));
