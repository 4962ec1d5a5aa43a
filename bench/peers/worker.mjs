// What every Node server under measurement does alike: see worker.py, whose orders it takes.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

export const TURN = 256;

const WORDS = JSON.parse(readFileSync(new URL("./words.json", import.meta.url)));
const FILLERS = fillers(1024, 84);
const STEPS = ["step_7f3c9a51", "step_8a4d0b62"];

function fillers(count, length) {
  let seed = 1;
  return Array.from({ length: count }, () => {
    let text = "";
    while (text.length < length) {
      seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
      text += " " + WORDS[(seed >> 16) % WORDS.length];
    }
    return text.slice(0, length);
  });
}

/** What the load client looks for: the time of emission (µs of the monotonic clock) and the event's number. */
function stamp(number) {
  const micros = process.hrtime.bigint() / 1000n;
  return `@${String(micros).padStart(16, "0")}#${String(number).padStart(7, "0")}`;
}

const long = (text) => `{"part_id":"p1","text":"${text}"}`;
const short = (text, number) =>
  `{"part_id":"p1","text":"${text}","step":"${STEPS[number & 1]}","agent":"assistant","group":"main-0190d9a7c3b24f65a1b8e93f2"}`;

/** An event as an in-process subscriber gets it, which looks for no stamp. */
export const eventOf = (number) => long("@0000000000000000#0000000" + FILLERS[number & 1023]);

export const turn = () => new Promise((resolve) => setImmediate(resolve));

/** The model: for each stream its events, one per turn of the loop, or at a rate, the streams out of step. */
export class Source {
  constructor(plan) {
    this.plan = { rate: 0, seal: true, short: false, viewed: true, ...plan };
    this.running = this.plan.streams;
    this.begun = new Promise((resolve) => (this.go = () => resolve(performance.now())));
    this.ended = new Promise((resolve) => (this.end = resolve));
  }

  async *events(stream) {
    const { streams, events, rate } = this.plan;
    const begun = await this.begun;
    const pace = rate ? 1000 / rate : 0;
    let due = begun + (pace * stream) / streams;
    for (let number = 1; number <= events; number++) {
      if (pace) {
        due += pace;
        await sleep(Math.max(0, due - performance.now()));
      } else {
        await turn();
      }
      const text = stamp(number);
      yield this.plan.short ? short(text, number) : long(text + FILLERS[(number + stream * 7) & 1023]);
    }
    if (--this.running === 0) this.end();
  }
}

function say(answer) {
  process.stdout.write(JSON.stringify(answer) + "\n");
}

/** Obey until standard input ends. `server`: version, serve() → port, prepare(source), local({events}). */
export async function main(server) {
  say({ port: await server.serve(), version: server.version });
  let source;
  for await (const line of createInterface({ input: process.stdin })) {
    const { do: what, ...order } = JSON.parse(line);
    if (what === "prepare") {
      source = new Source(order);
      await server.prepare(source);
      say({});
    } else if (what === "go") {
      say({});
      source.go();
    } else if (what === "wait") {
      await source.ended;
      say({});
    } else if (what === "collect") {
      globalThis.gc();
      say({});
    } else if (what === "local") {
      const begun = performance.now();
      await server.local(order);
      say({ seconds: (performance.now() - begun) / 1000 });
    } else {
      throw new Error(`what is ${what}?`);
    }
  }
  process.exit(0);
}
