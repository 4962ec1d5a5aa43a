// npm `resumable-stream`, as its README has it, in a node:http handler; publisher and subscriber in this process, through
// the interfaces that it documents for them, or (--redis URL) Redis. The first viewer of a stream reads the producer's own, its fastest path.

import { once } from "node:events";
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { createResumableStreamContext } from "resumable-stream/generic";
import { eventOf, main, turn, TURN } from "./worker.mjs";

const values = new Map();
const callbacks = new Map();

/** Redis's part in it, at no cost. */
const memory = {
  async connect() {},
  async publish(channel, message) {
    const callback = callbacks.get(channel);
    if (!callback) return 0;
    callback(message);
    return 1;
  },
  async subscribe(channel, callback) {
    callbacks.set(channel, callback);
  },
  async unsubscribe(channel) {
    callbacks.delete(channel);
  },
  async set(key, value) {
    values.set(key, value);
    return "OK";
  },
  async get(key) {
    return values.get(key) ?? null;
  },
  async incr(key) {
    const value = Number(values.get(key) ?? "0");
    if (Number.isNaN(value)) throw new Error("ERR value is not an integer or out of range");
    values.set(key, String(value + 1));
    return value + 1;
  },
};

/** Redis itself, with `--redis URL`. */
async function overRedis(url) {
  const { createClient } = await import("redis");
  const [publisher, subscriber] = [createClient({ url }), createClient({ url })];
  await Promise.all([publisher.connect(), subscriber.connect()]);
  return { publisher, subscriber };
}

const redis = process.argv[2] === "--redis" ? process.argv[3] : undefined;
const { publisher, subscriber } = redis ? await overRedis(redis) : { publisher: memory, subscriber: memory };
const context = createResumableStreamContext({ waitUntil: () => {}, publisher, subscriber });
let source;

const frame = (data) => `event: text.delta\ndata: ${data}\n\n`;

function frames(stream) {
  return new ReadableStream({
    async start(controller) {
      for await (const data of source.events(stream)) controller.enqueue(frame(data));
      if (source.plan.seal) controller.close();
    },
  });
}

async function answer(request, response) {
  const url = new URL(request.url, "http://127.0.0.1");
  const stream = Number(url.pathname.slice("/s-".length));
  const resumeAt = url.searchParams.get("resumeAt");
  const chunks = await context.resumableStream(
    `s-${stream}`,
    () => frames(stream),
    resumeAt ? parseInt(resumeAt) : undefined,
  );
  if (!chunks) {
    response.writeHead(422).end("Stream is already done");
    return;
  }
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.flushHeaders();
  const reader = chunks.getReader();
  response.on("close", () => reader.cancel().catch(() => {}));
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (!response.write(value)) await Promise.race([once(response, "drain"), once(response, "close")]);
  }
  response.end();
}

async function drain(chunks) {
  let count = 0;
  for await (const _ of chunks) count++;
  return count;
}

await main({
  version: JSON.parse(readFileSync(new URL("./node_modules/resumable-stream/package.json", import.meta.url))).version,

  async serve() {
    const server = createServer((request, response) => {
      answer(request, response).catch(() => response.destroy());
    });
    server.listen({ port: 0, host: "127.0.0.1", backlog: 2048 });
    await once(server, "listening");
    return server.address().port;
  },

  async prepare(plan) {
    source = plan;
    if (plan.plan.viewed) return; // the first viewer makes its stream
    for (let stream = 1; stream <= plan.plan.streams; stream++) {
      drain(await context.resumableStream(`s-${stream}`, () => frames(stream)));
    }
  },

  async local({ events }) {
    const produced = () =>
      new ReadableStream({
        async start(controller) {
          for (let number = 1; number <= events; number++) {
            controller.enqueue(frame(eventOf(number)));
            if (number % TURN === 0) await turn();
          }
          controller.close();
        },
      });
    const count = await drain(await context.resumableStream("local", produced));
    if (count !== events) throw new Error(`${count} of ${events} events arrived`);
  },
});
