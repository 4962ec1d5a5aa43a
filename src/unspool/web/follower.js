// Follows one generation: connects, reads, notices a dead connection, and comes back at its own position until the
// answer has ended. It reads with fetch, because EventSource can send no token and gives up for good at the first 503.

import { streamPath } from './api.js';
import { SseParser } from './sse.js';

export const TERMINAL = new Set(['completed', 'failed', 'aborted', 'replaced']);

const FIRST_WAIT = 400;
const LONGEST_WAIT = 15_000;
// The server breaks every silence after 15 s at the latest. After this much the connection is dead, whatever it says.
const SILENCE = 40_000;
const RECENT = 18_000;

/** Milliseconds before attempt number `failures`: doubling, bounded, and spread so that not all clients come at once. */
export function backOff(failures, random = Math.random, least = FIRST_WAIT) {
  const full = Math.min(LONGEST_WAIT, Math.max(least, FIRST_WAIT * 2 ** Math.min(failures - 1, 10)));
  return Math.round(full * (0.5 + random() / 2));
}

export class Follower {
  /**
   * @param {object} options
   * @param {import('./api.js').Api} options.api
   * @param {boolean} options.snapshot begin with the content so far instead of the first event
   * @param {(type: string, data: object, offset: number) => void} options.onEvent
   * @param {(state: {name: string, until?: number}) => void} options.onState connecting, live, waiting, offline, paused
   * @param {(why: 'ended' | 'lost' | Error) => void} options.onEnd without a terminal event: ask for the status
   */
  constructor({ api, id, generation, snapshot, onEvent, onState, onEnd }) {
    Object.assign(this, { api, id, generation, snapshot, onEvent, onState, onEnd });
    this.position = null;
    this.failures = 0;
    this.leastWait = FIRST_WAIT;
    this.lastByte = 0;
    this.closed = false;
    this.paused = false;
    this.hasty = false;
    this.controller = null;
    this.wakeUp = () => {};
  }

  /** Follows until the answer has ended or `close` is called. */
  async run() {
    while (!this.closed) {
      if (this.paused) {
        this.onState({ name: 'paused' });
        await this.wait(null);
        continue;
      }
      this.onState({ name: 'connecting' });
      const end = await this.attempt();
      if (this.closed) return;
      if (end !== null) {
        this.close();
        this.onEnd(end);
        return;
      }
      if (!this.paused) await this.rest();
    }
  }

  close() {
    this.closed = true;
    this.controller?.abort();
    this.wakeUp();
  }

  /** Lets the connection go: a browser has six per server, and a tab that nobody looks at need not hold one. */
  pause() {
    this.paused = true;
    this.controller?.abort();
  }

  /** Something changed for the better (network, tab visible): do not wait any longer, do not trust an old silence. */
  wake() {
    this.paused = false;
    this.failures = 0;
    if (Date.now() - this.lastByte > RECENT) this.controller?.abort();
    this.wakeUp();
  }

  /** The network may be gone: find out now, not when the silence has become long. */
  doubt() {
    this.hasty = true;
    this.controller?.abort();
  }

  async rest() {
    if (this.hasty) {
      this.hasty = false;
      return;
    }
    this.failures += 1;
    const delay = backOff(this.failures, Math.random, this.leastWait);
    // What the browser says of the network names the state, no more: a server on this machine answers all the same.
    this.onState({ name: navigator.onLine === false ? 'offline' : 'waiting', until: Date.now() + delay });
    await this.wait(delay);
  }

  wait(milliseconds) {
    return new Promise((resolve) => {
      const timer = milliseconds === null ? 0 : setTimeout(resolve, milliseconds);
      this.wakeUp = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** One connection. Null: try again; else why there is nothing more to follow. */
  async attempt() {
    const controller = new AbortController();
    this.controller = controller;
    this.lastByte = Date.now();
    const watchdog = setInterval(() => {
      if (Date.now() - this.lastByte > SILENCE) controller.abort();
    }, 5000);
    try {
      const response = await this.api.open(this.url(), { headers: this.headers(), signal: controller.signal });
      if (response.status === 204) return 'ended';
      return await this.read(response);
    } catch (error) {
      if (controller.signal.aborted || error.passing) return null;
      // Trimmed, of an older generation, beyond the end, or gone: only the state as it is now can tell.
      if ([404, 409, 410].includes(error.status)) return 'lost';
      return error;
    } finally {
      clearInterval(watchdog);
      this.controller = null;
    }
  }

  url() {
    const query = new URLSearchParams({ generation: this.generation });
    if (this.position === null && this.snapshot) query.set('snapshot', '1');
    return `${streamPath(this.id)}/events?${query}`;
  }

  headers() {
    const headers = { accept: 'text/event-stream' };
    if (this.position !== null) headers['last-event-id'] = this.position;
    return headers;
  }

  async read(response) {
    this.onState({ name: 'live' });
    let ended = false;
    const parser = new SseParser(
      ({ type, data, id }) => {
        if (this.closed || ended) return;
        // The position moves with the event, never before it: what was not shown is asked for again.
        this.onEvent(type, JSON.parse(data), Number(id.slice(id.indexOf('-') + 1)));
        this.position = id;
        this.failures = 0;
        ended = TERMINAL.has(type);
      },
      (milliseconds) => (this.leastWait = Math.min(milliseconds, LONGEST_WAIT)),
    );
    const reader = response.body.getReader();
    try {
      while (!ended) {
        const { done, value } = await reader.read().catch(() => ({ done: true }));
        // An end without the terminal event is a cut connection, however clean it looks.
        if (done) return null;
        this.lastByte = Date.now();
        parser.feed(value);
      }
    } finally {
      reader.cancel().catch(() => {});
    }
    this.close();
    return null;
  }
}
