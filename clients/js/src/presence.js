// What a browser knows of its reader and its network: back again, lost, away. Elsewhere none of it ever happens.

const ignore = () => {};

export class Presence {
  #stops = [];
  #timer;

  /** The tab has been hidden for `awayAfter` milliseconds. */
  away = false;

  /**
   * `onBack`: the network returned, or the tab is looked at or was woken. `onLost`: the network may be gone.
   * `onAway`: nobody has looked for `awayAfter` milliseconds.
   */
  constructor({ onBack, onLost = ignore, onAway = ignore, awayAfter = Infinity }) {
    const { document } = globalThis;
    const back = () => {
      clearTimeout(this.#timer);
      this.away = false;
      onBack();
    };
    const hide = () => {
      clearTimeout(this.#timer);
      if (awayAfter === Infinity) return;
      this.#timer = setTimeout(() => {
        this.away = true;
        onAway();
      }, awayAfter);
    };
    this.#listen(globalThis, 'online', back);
    this.#listen(globalThis, 'offline', onLost);
    this.#listen(globalThis, 'pageshow', ({ persisted }) => persisted && back());
    this.#listen(document, 'visibilitychange', () => (document.hidden ? hide() : back()));
    if (document?.hidden) hide();
  }

  close() {
    clearTimeout(this.#timer);
    for (const stop of this.#stops) stop();
  }

  #listen(target, type, listener) {
    if (typeof target?.addEventListener !== 'function') return;
    target.addEventListener(type, listener);
    this.#stops.push(() => target.removeEventListener(type, listener));
  }
}
