// One connection: it is cut when it has been silent for too long, when its owner says so, and with an outer signal.

export class Connection {
  #controller = new AbortController();
  #silence;
  #outer;
  #reader = null;
  #waitingSince = Date.now(); // null while nobody waits: a slow reader is not a silent server
  #watchdog;

  /** @param {number} silence milliseconds @param {AbortSignal} [outer] */
  constructor(silence, outer) {
    this.#silence = silence;
    this.#outer = outer;
    // A clock that is looked at, not one long timer: timers stand still while a machine sleeps.
    this.#watchdog = setInterval(() => this.#quiet > silence && this.cut(), silence / 8);
    this.#watchdog.unref?.(); // in Node it keeps no process alive: the connection does
    if (outer?.aborted) this.cut();
    outer?.addEventListener('abort', this.cut);
  }

  get signal() {
    return this.#controller.signal;
  }

  get #quiet() {
    return this.#waitingSince === null ? 0 : Date.now() - this.#waitingSince;
  }

  /** Whether it is open, and not silent for longer than a server that lives would be: it may have died in a sleep. */
  get trusted() {
    return this.#reader !== null && this.#quiet <= this.#silence / 2;
  }

  cut = () => this.#controller.abort();

  /** The next bytes of a response; null at its end, however it ended. */
  async read(response) {
    this.#reader ??= response.body.getReader();
    this.#waitingSince = Date.now();
    try {
      const { done, value } = await this.#reader.read();
      return done ? null : value;
    } catch {
      return null; // cut, by us or by the network
    } finally {
      this.#waitingSince = null;
    }
  }

  close() {
    clearInterval(this.#watchdog);
    this.#outer?.removeEventListener('abort', this.cut);
    this.cut();
  }
}
