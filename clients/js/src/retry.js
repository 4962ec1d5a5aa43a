// When to try again: exponential back-off with full jitter, which the server can stretch and good news cuts short.

const FIRST_WAIT = 500;
const LONGEST_WAIT = 15_000;
const LONGEST_LEAST = 60_000;

/**
 * Milliseconds to wait after this many failures in a row. The room for chance doubles with each, so that clients that
 * failed together do not come back together; `least` is what the server asked for, and always waited.
 */
export function backOff(failures, least = 0, random = Math.random) {
  const room = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** Math.min(failures - 1, 10));
  return Math.round(Math.min(least, LONGEST_LEAST) + random() * room);
}

export class Retry {
  #attempts;
  #signal;
  #onState;
  #failures = 0;
  #hasty = false;
  #wake = null;

  /** Milliseconds between attempts at least: the `retry:` of the stream. */
  least = 0;

  /** `attempts`: how many may fail in a row. */
  constructor({ attempts, signal, onState }) {
    this.#attempts = attempts;
    this.#signal = signal;
    this.#onState = onState;
  }

  /** Waits until the next attempt is due, or the signal says stop; throws the error where there is to be none. */
  async after(error) {
    if (!error.retryable) throw error;
    if (this.#hasty) {
      this.#hasty = false;
      return;
    }
    this.#failures += 1;
    if (this.#failures >= this.#attempts) throw error;
    const delay = backOff(this.#failures, Math.max(this.least, error.retryAfter));
    // What the browser says of the network names the state, no more: a server on this machine answers all the same.
    const name = globalThis.navigator?.onLine === false ? 'offline' : 'waiting';
    this.#onState({ name, until: Date.now() + delay, error });
    await this.pause(delay);
  }

  /** An attempt did what it was for. */
  succeeded() {
    this.#failures = 0;
  }

  /** Something changed for the better: the wait is over. While an attempt is under way: the next one follows at once. */
  hurry() {
    this.#failures = 0;
    if (this.#wake === null) this.#hasty = true;
    else this.#wake();
  }

  /** Waits; `hurry` and the signal end it early. Without milliseconds only they do. */
  pause(milliseconds) {
    if (this.#signal?.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#signal?.removeEventListener('abort', done);
        this.#wake = null;
        resolve();
      };
      const timer = milliseconds === undefined ? undefined : setTimeout(done, milliseconds);
      this.#signal?.addEventListener('abort', done);
      this.#wake = done;
    });
  }
}
