// What samples for a browser need under Node: addresses that begin at the page's origin, which is the server.

const origin = process.env.UNSPOOL_URL;
const { EventSource, fetch } = globalThis;

if (EventSource !== undefined)
  globalThis.EventSource = class extends EventSource {
    constructor(address, options) {
      super(new URL(address, origin), options);
    }
  };

globalThis.fetch = (address, options) =>
  fetch(typeof address === 'string' ? new URL(address, origin) : address, options);
