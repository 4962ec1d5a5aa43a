// The bearer token, where the server wants one: kept for the tab, sent with every request, asked for at a 401.

const KEY = 'unspool.token';

export class Token {
  #asking = null;

  constructor(storage = globalThis.sessionStorage) {
    this.storage = storage;
    /** How the page asks, told whether a token was refused; resolves with one. */
    this.ask = async () => '';
  }

  get value() {
    return this.storage.getItem(KEY) ?? '';
  }

  /** Asks for a token, once for everybody who needs it. */
  async renew() {
    this.#asking ??= this.ask(this.value !== '').finally(() => (this.#asking = null));
    this.storage.setItem(KEY, await this.#asking);
  }

  /** As the browser's, with the token; at a 401 it asks for one and tries again. */
  fetch = async (address, options = {}) => {
    for (;;) {
      const { value } = this;
      const headers = new Headers(options.headers);
      if (value) headers.set('authorization', `Bearer ${value}`);
      const response = await fetch(address, { ...options, headers });
      if (response.status !== 401) return response;
      // Somebody may have answered while this request was on its way: then the new token is tried first.
      if (this.value === value) await this.renew();
    }
  };
}
