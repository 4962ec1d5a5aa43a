// Follows one generation: connects, reads, notices a dead connection, and comes back at its own position until the
// generation has ended. It reads with fetch, because EventSource can send no token and gives up for good at the first 503.

import { Connection } from './connection.js';
import { Decoder } from './decoder.js';
import { cutOff, unexpected, unreachable, UnspoolError } from './errors.js';
import { Http, query, streamPath } from './http.js';
import { Presence } from './presence.js';
import { Retry } from './retry.js';

/** The types of the records after which nothing comes. */
export const TERMINAL = new Set(['completed', 'failed', 'aborted', 'replaced']);

const RUNNING = new Set(['running', 'requires_action']);
const EVENT_STREAM = 'text/event-stream';
const POSITION = /^([1-9][0-9]*)-([0-9]+)$/;
// A connection that lasted this long was a good one, even if nothing came: behind a proxy that cuts silent ones, a
// long tool call must not look like a server that fails again and again.
const LASTING = 15_000;

export class Follower {
  #http;
  #streamId;
  #generation;
  #position;
  #log = null; // the one that the position is of, as the server names it
  #snapshot;
  #signal;
  #onState;
  #retry;
  #restAfter;
  #connection = null;

  constructor(
    http,
    streamId,
    {
      generation, after = 0, snapshot = false, signal, onState = () => {}, attempts = Infinity, restAfter = Infinity,
    },
  ) {
    if (after > 0 && generation === undefined)
      throw new TypeError('`after` needs the `generation` that the offset belongs to');
    this.#http = http;
    this.#streamId = streamId;
    this.#generation = generation;
    this.#position = after > 0 ? `${generation}-${after}` : null;
    this.#snapshot = snapshot;
    this.#signal = signal;
    this.#onState = onState;
    this.#restAfter = restAfter;
    this.#retry = new Retry({ attempts, signal, onState });
  }

  /** The records, each once, in order; ends after the terminal one, or when the signal says so. */
  async *records() {
    const again = () => {
      this.#retry.hurry();
      this.#connection?.cut();
    };
    const presence = new Presence({
      awayAfter: this.#restAfter,
      onBack: () => {
        if (!this.#connection?.trusted) again();
      },
      onLost: again, // found out now, not when the silence has become long
      onAway: () => this.#connection?.cut(),
    });
    try {
      while (!this.#signal?.aborted) {
        if (presence.away) {
          this.#onState({ name: 'resting' });
          await this.#retry.pause();
          continue;
        }
        this.#onState({ name: 'connecting' });
        const error = yield* this.#attempt();
        if (error === null) return;
        if (!presence.away && !this.#signal?.aborted) await this.#retry.after(error);
      }
    } finally {
      presence.close();
    }
  }

  /** One connection: its records, then why it ended before the generation did; null if there is no more to come. */
  async *#attempt() {
    const connection = new Connection(this.#http.silence, this.#signal);
    this.#connection = connection;
    const began = Date.now();
    try {
      const response = await this.#http.open(this.#path(), { headers: this.#headers(), signal: connection.signal });
      if (response.status === 204) return null;
      await checkType(response);
      this.#onState({ name: 'live' });
      const decoder = new Decoder();
      for (let bytes = await connection.read(response); bytes !== null; bytes = await connection.read(response)) {
        for (const message of decoder.feed(bytes)) {
          if (this.#signal?.aborted) return null;
          const record = recordOf(message);
          this.#generation = record.generation;
          this.#position = message.id;
          this.#log ??= response.headers.get('x-unspool-log');
          this.#retry.least = decoder.retry ?? this.#retry.least;
          this.#retry.succeeded();
          yield record;
          if (TERMINAL.has(record.type)) return null;
          // The content of a generation that has ended: nothing follows, which the next answer says (204).
          if (record.type === 'sync' && !RUNNING.has(record.data.status)) this.#retry.hurry();
        }
      }
      if (Date.now() - began > LASTING) this.#retry.succeeded();
      // An end without the terminal record is a cut connection, however clean it looks.
      return unreachable('The connection was lost.');
    } catch (error) {
      if (error instanceof UnspoolError) return error;
      throw error;
    } finally {
      this.#connection = null;
      connection.close();
    }
  }

  #path() {
    const snapshot = this.#snapshot && this.#position === null;
    return `${streamPath(this.#streamId)}/events${query({ generation: this.#generation, log: this.#log, snapshot })}`;
  }

  #headers() {
    const headers = { accept: 'text/event-stream' };
    if (this.#position !== null) headers['last-event-id'] = this.#position;
    return headers;
  }
}

async function checkType(response) {
  const type = response.headers.get('content-type') ?? '';
  if (type.startsWith(EVENT_STREAM)) return;
  if (EVENT_STREAM.startsWith(type) && (await Http.text(response)) === '') throw cutOff();
  throw unexpected(`The answer is ${type || 'without a type'}, not an event stream.`, response.status);
}

function recordOf({ type, data, id }) {
  const position = POSITION.exec(id);
  if (position === null) throw unexpected(`The event id ${JSON.stringify(id)} is not a position.`, 200);
  try {
    return { offset: Number(position[2]), generation: Number(position[1]), type, data: JSON.parse(data) };
  } catch (error) {
    throw unexpected(`The data of event ${id} is not JSON.`, 200, error);
  }
}
