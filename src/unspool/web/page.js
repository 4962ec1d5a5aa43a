// The page around the turns: composer, scrolling, connection state, theme, the token dialog. It decides nothing.

import { setText } from './dom.js';
import { TurnView } from './turn.js';

const $ = (id) => document.getElementById(id);
const NEAR = 48; // pixels from the end at which the reader counts as being there

export class Page {
  /** @param {{onSend, onStop, onNew, onRetry}} handlers */
  constructor(handlers) {
    this.handlers = handlers;
    this.views = new Map();
    this.following = true;
    this.top = 0; // where the conversation stood when last looked at, in pixels
    this.ticking = null;
    this.bindComposer();
    this.bindScrolling();
    this.bindTheme();
    $('new').addEventListener('click', () => handlers.onNew());
    $('stop').addEventListener('click', () => handlers.onStop());
    $('skip').addEventListener('click', (event) => {
      // The address names the conversation, so the link must not change it.
      event.preventDefault();
      this.focus();
    });
    for (const button of $('suggestions').children)
      button.addEventListener('click', () => handlers.onSend(button.textContent));
    document.addEventListener('keydown', (event) => {
      if (event.key === 'Escape' && !event.isComposing && !$('stop').hidden && !$('token-dialog').open) {
        event.preventDefault();
        handlers.onStop();
      }
    });
  }

  bindComposer() {
    const input = $('input');
    const submit = () => {
      const text = input.value.trim();
      if (text === '' || $('send').hidden || !this.handlers.onSend(text)) return;
      input.value = '';
      this.grow();
    };
    $('composer').addEventListener('submit', (event) => {
      event.preventDefault();
      submit();
    });
    input.addEventListener('keydown', (event) => {
      // Enter that ends the composition of a character (Japanese, Chinese) is not meant for us.
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      submit();
    });
    input.addEventListener('input', () => this.grow());
  }

  grow() {
    const input = $('input');
    $('send').disabled = input.value.trim() === '';
    input.style.height = 'auto';
    input.style.height = `${input.scrollHeight}px`;
  }

  bindScrolling() {
    const scroller = $('scroller');
    scroller.addEventListener('scroll', () => {
      // Only a movement says what the reader wants. The event of our own jump to the end may arrive after the reader
      // has turned the wheel, and content that shrinks moves the view too, but leaves it at the end.
      const { scrollTop } = scroller;
      const left = scroller.scrollHeight - scrollTop - scroller.clientHeight;
      if (scrollTop > this.top && left < NEAR) this.following = true;
      if (scrollTop < this.top && left > 1) this.following = false;
      this.top = scrollTop;
      this.showJump();
    }, { passive: true });
    // A wheel turned upwards counts before the next token can pull the reader down again.
    scroller.addEventListener('wheel', (event) => {
      if (event.deltaY < 0 && scroller.scrollHeight > scroller.clientHeight) this.following = false;
    }, { passive: true });
    $('jump').addEventListener('click', () => {
      this.toEnd();
      this.focus();
    });
    // Images, opened details, a smaller window: whoever was at the end stays there.
    new ResizeObserver(() => this.scroll()).observe($('turns'));
    new ResizeObserver(() => this.scroll()).observe(scroller);
  }

  scroll() {
    const scroller = $('scroller');
    if (this.following) {
      scroller.scrollTop = scroller.scrollHeight;
      this.top = scroller.scrollTop;
    }
    this.showJump();
  }

  toEnd() {
    this.following = true;
    this.scroll();
  }

  showJump() {
    const scroller = $('scroller');
    $('jump').hidden = this.following || scroller.scrollHeight - scroller.clientHeight < NEAR;
  }

  bindTheme() {
    $('theme').addEventListener('click', () => {
      const root = document.documentElement;
      const dark = root.dataset.theme
        ? root.dataset.theme === 'dark'
        : matchMedia('(prefers-color-scheme: dark)').matches;
      root.dataset.theme = dark ? 'light' : 'dark';
      try {
        localStorage.setItem('unspool.theme', root.dataset.theme);
      } catch {
        // It holds for this page then.
      }
    });
  }

  focus() {
    $('input').focus({ preventScroll: true });
  }

  /** Shows these turns, and no others. */
  showTurns(turns) {
    const root = $('turns');
    const wanted = new Set(turns.map(({ id }) => id));
    for (const [id, view] of this.views) {
      if (wanted.has(id)) continue;
      view.node.remove();
      this.views.delete(id);
    }
    turns.forEach((turn, index) => {
      const view = this.showTurn(turn, index === turns.length - 1);
      if (root.children[index] !== view.node) root.insertBefore(view.node, root.children[index] ?? null);
    });
    $('empty').hidden = turns.length > 0;
    this.scroll();
  }

  showTurn(turn, last) {
    let view = this.views.get(turn.id);
    if (view === undefined) {
      view = new TurnView(turn, { onRetry: this.handlers.onRetry });
      this.views.set(turn.id, view);
    }
    view.update(turn, last);
    return view;
  }

  setNote(turn, text) {
    this.views.get(turn.id)?.setNote(text);
  }

  setTitle(title) {
    setText($('title'), title);
    $('title').title = title;
    document.title = title ? `${title} · unspool` : 'unspool';
  }

  setAbout({ model, note }) {
    $('model').hidden = !model;
    setText($('model'), model ?? '');
    $('note').hidden = !note;
    setText($('note'), note ?? '');
  }

  /** `running` swaps Send for Stop; `stopping`: it was pressed, and the server has not answered yet. */
  setRunning(running, stopping = false) {
    const focused = document.activeElement;
    $('send').hidden = running;
    $('stop').hidden = !running;
    $('stop').disabled = stopping;
    setText($('stop-text'), stopping ? 'Stopping…' : 'Stop');
    // A button that disappears or is disabled takes the focus with it: keyboard users would be thrown to the top.
    if (focused === $('stop') && (!running || stopping)) this.focus();
  }

  setProblem(text) {
    $('problem').hidden = text === '';
    setText($('problem'), text);
  }

  /** Says something to a screen reader, politely; never token by token. */
  announce(text) {
    setText($('announcer'), text);
  }

  /** Connection state; with `until` the seconds to it are counted down. */
  setConnection(name, until) {
    clearInterval(this.ticking);
    const show = () => {
      const seconds = Math.max(1, Math.ceil(((until ?? 0) - Date.now()) / 1000));
      $('connection').dataset.state = name;
      setText($('connection-text'), name === 'waiting' ? `reconnecting in ${seconds} s` : name);
    };
    show();
    if (name === 'waiting') this.ticking = setInterval(show, 250);
  }

  /** Asks for the bearer token; resolves with it. */
  askToken(refused) {
    const dialog = $('token-dialog');
    setText($('token-text'), refused
      ? 'That token was not accepted.'
      : 'It stays in this tab and is forgotten when you close it.');
    $('token').value = '';
    if (!dialog.open) dialog.showModal();
    return new Promise((resolve) => {
      // There is nothing behind the dialog without a token, so Esc does not close it.
      dialog.oncancel = (event) => event.preventDefault();
      $('token-form').onsubmit = (event) => {
        event.preventDefault();
        const token = $('token').value.trim();
        if (token === '') return;
        dialog.close();
        resolve(token);
      };
    });
  }
}
