// One request to the server, without second attempts: addresses, headers, errors.

import { cutOff, errorOf, unexpected, unreachable } from './errors.js';

export class Http {
  #url;
  #headers;
  #fetch;

  /** Milliseconds of silence after which a connection is dead, whatever it says: the server speaks every 15 s. */
  silence;

  constructor(url, { headers, fetch, silence }) {
    this.#url = String(url).replace(/\/+$/, '');
    this.#headers = headers;
    this.#fetch = fetch;
    this.silence = silence;
  }

  /** The response, if it is a success. Throws UnspoolError. */
  async open(path, { method = 'GET', body, headers = {}, signal } = {}) {
    const own = typeof this.#headers === 'function' ? await this.#headers() : this.#headers;
    const sent = new Headers(own);
    for (const [name, value] of Object.entries(headers)) sent.set(name, value);
    const options = { method, headers: sent, signal, cache: 'no-store' };
    if (body !== undefined) {
      sent.set('content-type', 'application/json');
      options.body = JSON.stringify(body);
    }
    let response;
    try {
      response = await this.#fetch(this.#url + path, options);
    } catch (error) {
      throw unreachable('The server cannot be reached.', error);
    }
    if (response.status < 200) throw cutOff(); // "HTTP/1.1 20"
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  /** The text of a response. Throws UnspoolError where it was cut off. */
  static async text(response) {
    try {
      return await response.text();
    } catch (error) {
      throw cutOff(error);
    }
  }

  /** The JSON of a response. Throws UnspoolError. */
  static async json(response) {
    const text = await Http.text(response);
    if (text === '') throw cutOff();
    try {
      return JSON.parse(text);
    } catch (error) {
      throw unexpected('The answer is not JSON: is this the address of an unspool server?', response.status, error);
    }
  }
}

export const streamPath = (streamId) => `/v1/streams/${encodeURIComponent(streamId)}`;

/** `?a=1&b=2` of what is set; empty when nothing is. */
export function query(values) {
  const set = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== false);
  return set.length === 0 ? '' : `?${new URLSearchParams(set.map(([name, value]) => [name, value === true ? '1' : value]))}`;
}
