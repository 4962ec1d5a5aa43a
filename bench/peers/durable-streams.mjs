// npm `@durable-streams/server`: its own server, its in-memory store, JSON mode; appended in process.

import { readFileSync } from "node:fs";
import { DurableStreamTestServer } from "@durable-streams/server";
import { eventOf, main, turn, TURN } from "./worker.mjs";

const server = new DurableStreamTestServer({ port: 0 });
const encoder = new TextEncoder();
const contentType = "application/json";

async function produce(source, stream) {
  const path = `/s-${stream}`;
  for await (const data of source.events(stream)) server.store.append(path, encoder.encode(data));
  if (source.plan.seal) server.store.closeStream(path);
}

const manifest = new URL("./node_modules/@durable-streams/server/package.json", import.meta.url);

await main({
  version: JSON.parse(readFileSync(manifest)).version,

  async serve() {
    return Number(new URL(await server.start()).port);
  },

  async prepare(source) {
    for (let stream = 1; stream <= source.plan.streams; stream++) {
      server.store.create(`/s-${stream}`, { contentType });
      produce(source, stream);
    }
  },

  /** The subscriber reads and waits as its own server does. */
  async local({ events }) {
    server.store.create("/local", { contentType });
    (async () => {
      for (let number = 1; number <= events; number++) {
        server.store.append("/local", encoder.encode(eventOf(number)));
        if (number % TURN === 0) await turn();
      }
    })();
    let seen = 0;
    let offset = "-1";
    while (seen < events) {
      const { messages } = await server.store.waitForMessages("/local", offset, 30_000);
      seen += messages.length;
      offset = messages.at(-1)?.offset ?? offset;
    }
  },
});
