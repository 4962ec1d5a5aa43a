// The server's native routes, with the token where one is needed and its problem documents as errors.

const TOKEN = 'unspool.token';

/** An answer that is not a success. `status` 0: no answer at all. */
export class ApiError extends Error {
  constructor(status, message, problem = {}) {
    super(message);
    this.status = status;
    this.problem = problem;
  }

  /** Whether the same request may do better a little later. */
  get passing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export class Api {
  constructor({ fetch = (...args) => globalThis.fetch(...args), storage = globalThis.sessionStorage } = {}) {
    this.fetch = fetch;
    this.storage = storage;
    /** How the page asks; resolves when there is a token. */
    this.askForToken = async () => {};
    this.asking = null;
  }

  set token(value) {
    this.storage.setItem(TOKEN, value);
  }

  get token() {
    return this.storage.getItem(TOKEN) ?? '';
  }

  /** The response, if it is a success. Raises ApiError. Asks for a token at 401, and tries again with it. */
  async open(path, { method = 'GET', body, headers = {}, signal } = {}) {
    for (;;) {
      const { token } = this;
      const sent = { ...headers };
      if (token) sent.authorization = `Bearer ${token}`;
      if (body !== undefined) sent['content-type'] = 'application/json';
      let response;
      try {
        const options = { method, headers: sent, signal, cache: 'no-store' };
        if (body !== undefined) options.body = JSON.stringify(body);
        response = await this.fetch(path, options);
      } catch (error) {
        if (signal?.aborted) throw error;
        throw new ApiError(0, 'The server cannot be reached.');
      }
      if (response.ok) return response;
      if (response.status !== 401) throw await problemOf(response);
      // Somebody may have answered while this request was on its way: then the new token is tried first.
      if (this.token === token) await this.login(Boolean(token));
    }
  }

  /** Asks for a token, once for everybody who needs it. `refused`: there was one, and it was not taken. */
  login(refused) {
    this.asking ??= this.askForToken(refused).finally(() => (this.asking = null));
    return this.asking;
  }

  async json(path, options) {
    const response = await this.open(path, options);
    try {
      return await response.json();
    } catch (error) {
      if (options?.signal?.aborted) throw error;
      throw new ApiError(0, 'The answer of the server was cut off.');
    }
  }

  about() {
    return this.json('/about');
  }

  /** The stream's last generation, or null where there is none. */
  async status(id) {
    try {
      return await this.json(streamPath(id));
    } catch (error) {
      if (error.status === 404 || error.status === 410) return null;
      throw error;
    }
  }

  start(id, body, signal) {
    return this.json(`${streamPath(id)}/generations`, { method: 'POST', body, signal });
  }

  abort(id, generation) {
    return this.json(`${streamPath(id)}/abort`, { method: 'POST', body: { generation } });
  }
}

export const streamPath = (id) => `/v1/streams/${encodeURIComponent(id)}`;

async function problemOf(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // A proxy's own error page: its status is all there is to say.
  }
  const message = problem.detail || problem.title || `The server answered ${response.status}.`;
  return new ApiError(response.status, message, problem);
}
