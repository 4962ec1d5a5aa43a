// The client of one server: start, follow, stop, status, list. What it sends twice has the effect of once.

import { Connection } from './connection.js';
import { UnspoolError } from './errors.js';
import { Follower } from './follower.js';
import { Http, query, streamPath } from './http.js';
import { newId } from './id.js';
import { Presence } from './presence.js';
import { Retry } from './retry.js';

const ATTEMPTS = 6;
const SILENCE = 40_000;
const ignore = () => {};

export class Client {
  #http;
  #attempts;

  /**
   * @param {string | URL} [url] where the server is, path prefix included; the page's own origin by default
   * @param {object} [options] `headers`: sent with every request, or a function that is asked for them each time.
   *   `fetch`: used instead of the global one. `attempts`: how many of one call may fail in a row, 6; `follow` has its
   *   own. `silence`: milliseconds without a byte after which a connection is given up, 40,000.
   */
  constructor(url = '', { headers = {}, fetch, attempts = ATTEMPTS, silence = SILENCE } = {}) {
    // Looked up at each call, and called without an owner: browsers refuse their fetch as a method of something else.
    const send = fetch ?? ((...args) => globalThis.fetch(...args));
    this.#http = new Http(url, { headers, fetch: (...args) => send(...args), silence });
    this.#attempts = attempts;
  }

  /**
   * Starts a generation and returns at once; it runs whether anybody follows or not. It starts once, however often it
   * has to be sent: `requestId` is minted where none is given.
   */
  async start(streamId, { messages, model, requestId = newId(), expectGeneration, metadata, ...call }) {
    const body = { messages, model, request_id: requestId, expect_generation: expectGeneration, metadata };
    const [started, response] = await this.#ask(`${streamPath(streamId)}/generations`, call, { method: 'POST', body });
    return { ...started, attached: response.status === 200 };
  }

  /**
   * The records of a generation, `{offset, generation, type, data}`, each once and in order, through whatever happens to
   * the connection; ends after the terminal record, and quietly when `signal` is aborted. Throws UnspoolError when the
   * server refuses.
   */
  follow(streamId, options = {}) {
    return new Follower(this.#http, streamId, options).records();
  }

  /** Stops a generation; the answer comes when it has stopped, and holds its whole content. */
  async stop(streamId, { generation, reason, ...call } = {}) {
    // A second attempt must not stop what was started in between.
    const pinned = generation ?? (await this.status(streamId, call)).generation;
    const body = { generation: pinned, reason };
    const [outcome] = await this.#ask(`${streamPath(streamId)}/abort`, call, { method: 'POST', body });
    return outcome;
  }

  /** Status and content so far: of the stream's last generation, or of another. */
  async status(streamId, { generation, ...call } = {}) {
    const [state] = await this.#ask(streamPath(streamId) + query({ generation }), call);
    return state;
  }

  /** The caller's own generations, newest first, those within their retention time included. */
  async list({ status, limit, ...call } = {}) {
    const [{ streams }] = await this.#ask(`/v1/streams${query({ status, limit })}`, call);
    return streams;
  }

  /** A request that is repeated until it is answered: the JSON and the response. */
  async #ask(path, { signal, onState = ignore, attempts = this.#attempts }, options) {
    const retry = new Retry({ attempts, signal, onState });
    const presence = new Presence({ onBack: () => retry.hurry() });
    try {
      for (;;) {
        signal?.throwIfAborted();
        onState({ name: 'connecting' });
        try {
          return await this.#once(path, { ...options, signal });
        } catch (error) {
          signal?.throwIfAborted();
          if (!(error instanceof UnspoolError)) throw error;
          await retry.after(error);
        }
      }
    } finally {
      presence.close();
    }
  }

  async #once(path, { signal, ...options }) {
    const connection = new Connection(this.#http.silence, signal);
    try {
      const response = await this.#http.open(path, { ...options, signal: connection.signal });
      return [await Http.json(response), response];
    } finally {
      connection.close();
    }
  }
}
