// One conversation: decides what to ask the server, what to follow, and what the page shows. All state is here.
//
// The truth about a running answer is the server's. `check` asks for it and `adopt` takes it over, whatever this page
// believed; loading, coming back, another tab's turn, a lost position and an ended stream are all the same two steps.

import { Fold, newId, TERMINAL } from './client/index.js';
import { isNew, Transcript } from './transcript.js';
import { isRunning } from './turn.js';

const STOP_ATTEMPTS = 4;
const RECHECK_AFTER = 1000;
// A browser has six connections per server: a tab that nobody looks at need not hold one.
const REST_AFTER = 60_000;
const LOST = new Set([404, 409, 410]); // trimmed, of an older generation, beyond the end, or gone
const STATUS_OF = { completed: 'complete', failed: 'error', aborted: 'aborted', replaced: 'replaced' };

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export class Chat {
  constructor(client, page, id) {
    this.client = client;
    this.page = page;
    this.id = id;
    this.transcript = new Transcript(id);
    this.generation = null; // the stream's last one, as far as this page knows
    this.live = null; // {turn, fold, generation, abort, failure, note, stopping, lost}
    this.closed = false;
    this.checking = null;
    this.frame = null;
  }

  /** Shows what is known and joins what is running. */
  async open() {
    this.page.setProblem('');
    this.show();
    this.page.toEnd();
    if (isNew(this.id)) this.adopt(null, 'resumed');
    else await this.check('resumed');
  }

  close() {
    this.closed = true;
    // A question that is on its way still goes there.
    if (this.live?.generation) this.live.abort.abort();
  }

  // what the server knows

  /** Asks the server for the state and takes it over, as soon as it can be reached. `verb` is for the line it shows. */
  check(verb) {
    this.checking ??= this.ask(verb).finally(() => (this.checking = null));
    return this.checking;
  }

  async ask(verb) {
    try {
      const state = await this.known();
      if (!this.closed) this.adopt(state, verb);
    } catch (error) {
      if (this.closed) return;
      this.page.setConnection('ended');
      this.page.setProblem(error.message);
    }
  }

  /** The stream's last generation, or null where there is none. */
  async known() {
    const onState = (state) => {
      if (!this.closed && !this.live) this.showConnection(state);
    };
    try {
      return await this.client.status(this.id, { onState, attempts: Infinity });
    } catch (error) {
      if (error.status === 404 || error.status === 410) return null;
      throw error;
    }
  }

  adopt(state, verb) {
    this.transcript.refresh();
    this.generation = state?.generation ?? 0;
    const { live } = this;
    // A turn that is just being sent has no generation yet: what it becomes, its own request will tell.
    if (live && live.generation === null) return;
    const same = live !== null && live.generation === this.generation;
    if (same && state.active && !live.lost) return;
    if (live && !same) this.end(state === null ? 'lost' : 'replaced');
    if (state !== null) {
      const turn = this.turnOf(state);
      if (state.active) this.follow(turn, state.generation, { snapshot: true, verb, state });
      else if (same || turn.answer?.generation !== state.generation || isRunning(turn.answer)) this.settled(turn, state);
    }
    // A tab that has just begun a turn is still sending it: then nothing is forgotten.
    if (!this.live && verb !== 'joined') this.forget();
    if (!this.live) this.page.setConnection(this.transcript.last?.answer ? 'ended' : 'ready');
    this.show();
  }

  /** What this browser believes to be running and the server does not know cannot be continued. */
  forget() {
    const turn = this.transcript.last;
    if (turn !== null && isRunning(turn.answer))
      this.transcript.put({ ...turn, answer: { ...turn.answer, status: turn.answer.generation ? 'lost' : 'unsent' } });
  }

  /** The turn that a generation answers: a known one, or one that another device began. */
  turnOf({ generation, user_message: message }) {
    const text = String(message?.text ?? '');
    const known = this.transcript.match(generation, message?.id, text);
    return known ?? { id: String(message?.id ?? `generation-${generation}`), text, request: null, answer: null };
  }

  settled(turn, state) {
    const { generation, status, content, usage, title } = state;
    this.transcript.put({ ...turn, answer: { generation, status, parts: content, usage, title } });
    if (this.live?.turn.id === turn.id) this.finish();
  }

  // following

  follow(turn, generation, { snapshot, verb, state }) {
    this.live?.abort.abort();
    const fold = new Fold();
    // What is there already is shown at once; the stream then begins with the same or more.
    if (state) fold.restore(state);
    const live = { turn, fold, generation, abort: new AbortController(), stopping: false, lost: false };
    this.live = live;
    this.generation = generation;
    turn.answer = { generation, status: 'running', parts: fold.parts, usage: [], title: null };
    this.transcript.put({ ...turn });
    this.page.setRunning(true);
    this.show();
    this.read(live, snapshot, verb);
  }

  /** Takes in what comes, until the answer has ended or this page no longer wants it. */
  async read(live, snapshot, verb) {
    const { generation, abort: { signal } } = live;
    let first = true;
    const onState = (state) => {
      this.showConnection(state);
      if (state.name === 'waiting') this.page.announce('Connection lost. Reconnecting.');
      if (state.name === 'live' && !first) {
        this.note(live, 'resumed', live.fold.offset);
        this.page.announce('Connected again.');
      }
    };
    try {
      const options = { generation, snapshot, signal, onState, restAfter: REST_AFTER };
      for await (const record of this.client.follow(this.id, options)) {
        if (this.closed || this.live !== live) return;
        this.take(live, record, first ? verb : 'resumed');
        first = false;
      }
    } catch (error) {
      if (this.closed || this.live !== live) return;
      if (!LOST.has(error.status)) {
        this.end('lost', error.message);
        this.show();
        return;
      }
      if (first) await sleep(RECHECK_AFTER); // not in a circle without a breath
    }
    this.lose(live);
  }

  take(live, { type, offset, data }, verb) {
    live.fold.apply({ type, offset, data });
    if (type === 'sync' && offset > 0) this.note(live, verb, offset);
    if (TERMINAL.has(type)) this.settle(type, data);
    else this.schedule();
  }

  /** The position means nothing any more, or all that was left has come: on from the state as it is now. */
  lose(live) {
    if (this.closed || this.live !== live) return;
    live.abort.abort();
    live.lost = true;
    this.check('resumed');
  }

  showConnection({ name, until }) {
    this.page.setConnection(name, until);
  }

  note(live, verb, offset) {
    live.note = `${verb} at offset ${offset}`;
    this.page.setNote(live.turn, live.note);
  }

  /** Shows the live answer with the next frame; where no frames come (a hidden tab), soon. */
  schedule() {
    if (this.frame !== null) return;
    const draw = () => {
      cancelAnimationFrame(this.frame.animation);
      clearTimeout(this.frame.timer);
      this.frame = null;
      if (!this.closed) this.draw();
    };
    this.frame = { animation: requestAnimationFrame(draw), timer: setTimeout(draw, 250) };
  }

  draw() {
    const { live } = this;
    if (live === null) return;
    const { fold, turn } = live;
    if (fold.version !== live.drawn) {
      live.drawn = fold.version;
      Object.assign(turn.answer, {
        parts: fold.parts, usage: fold.usage, prompts: fold.prompts, approvals: fold.approvals, title: fold.title,
      });
      this.page.showTurn(turn, turn.id === this.transcript.last?.id);
      this.page.setTitle(this.title());
    }
    this.page.scroll();
  }

  // ending

  settle(type, data) {
    const reason = type === 'aborted' && data.by !== 'user' ? (data.reason ?? data.by) : null;
    this.end(STATUS_OF[type], null, reason);
    this.show();
    if (type === 'replaced') this.check('joined');
    else this.page.announce({ completed: 'Answer finished.', failed: 'The answer failed.', aborted: 'Stopped.' }[type]);
  }

  /** Ends the live answer with what has arrived. */
  end(status, error = null, reason = null) {
    const { fold, turn, generation } = this.live;
    const answer = {
      generation, status, error, reason,
      parts: fold?.parts ?? [], usage: fold?.usage ?? [], title: fold?.title ?? null,
    };
    this.transcript.put({ ...turn, answer });
    this.finish();
  }

  finish() {
    this.live.abort.abort();
    this.live = null;
    this.page.setRunning(false);
    this.page.setConnection('ended');
  }

  // what the reader does

  /** Sends a message; false when an answer is running, which has to end first. */
  submit(text) {
    if (this.live !== null) return false;
    this.begin({ id: newId(), text, request: newId(), answer: null });
    return true;
  }

  /** Asks again: under the same request if it never got through, else as a new one. */
  retry(id) {
    const turn = this.transcript.find(id);
    if (this.live !== null || turn === null) return;
    const request = turn.answer?.generation || !turn.request ? newId() : turn.request;
    this.page.setNote(turn, '');
    this.begin({ ...turn, request, answer: null });
  }

  async begin(turn) {
    turn.answer = { generation: null, status: 'starting', parts: [], usage: [] };
    const live = { turn, fold: null, generation: null, abort: new AbortController(), stopping: false, lost: false };
    this.live = live;
    this.transcript.put({ ...turn });
    this.page.setProblem('');
    this.page.setRunning(true);
    this.page.announce('Sending.');
    this.show();
    this.page.toEnd();
    const started = await this.start(live);
    if (started === null || this.closed || this.live !== live) return;
    this.follow(turn, started.generation, { snapshot: false, verb: 'joined' });
    if (live.stopping) this.stop();
  }

  /** What the server says to the question; null when it was not taken. */
  async start(live) {
    const { turn } = live;
    try {
      return await this.client.start(this.id, {
        messages: this.transcript.messages(turn.id),
        requestId: turn.request,
        metadata: { user_message: { id: turn.id, text: turn.text } },
        // Two tabs that ask at the same moment must not silently replace each other's answer.
        expectGeneration: this.generation ?? undefined,
        signal: live.abort.signal,
        onState: (state) => {
          if (this.closed) return;
          live.failure = state.error ?? null; // what it waits for to pass
          if (live.failure && live.stopping) live.abort.abort(live.failure);
          else this.showConnection(state);
        },
      });
    } catch (error) {
      if (!this.closed) this.refused(live, error);
      return null;
    }
  }

  refused(live, error) {
    const conflict = error.code === 'generation_conflict';
    this.end('unsent', conflict ? 'Another tab or device asked first. Try again after its answer.' : error.message);
    this.show();
    this.page.announce('Not sent.');
    if (conflict) this.check('joined');
  }

  /** Stops the running answer on the server. The partial answer stays. */
  async stop() {
    const { live } = this;
    if (live === null || (live.stopping && live.generation === null)) return;
    live.stopping = true;
    this.page.setRunning(true, true);
    if (live.generation === null) {
      // On its way: `begin` stops it as soon as it has a number. Between two attempts: there is no other.
      if (live.failure) live.abort.abort(live.failure);
      return;
    }
    try {
      const outcome = await this.client.stop(this.id, { generation: live.generation, attempts: STOP_ATTEMPTS });
      if (this.live === live) this.stopped(live, outcome);
    } catch (error) {
      if (this.live !== live) return;
      if (LOST.has(error.status)) {
        this.check('resumed');
        return;
      }
      live.stopping = false;
      this.page.setRunning(true);
      this.page.setProblem(`Could not stop: ${error.message} The answer goes on.`);
    }
  }

  stopped(live, { outcome, status, content, usage, final }) {
    // The answer to Stop holds the whole content, so nothing depends on the stream still being there.
    live.fold.parts = content;
    live.fold.usage = usage;
    const reason = status === 'aborted' && final?.by && final.by !== 'user' ? (final.reason ?? final.by) : null;
    const error = outcome === 'save_failed' ? 'Stopped, but the partial answer could not be saved on the server.' : null;
    this.end(status, error, reason);
    this.show();
    this.page.announce(status === 'aborted' ? 'Stopped.' : 'The answer had ended already.');
  }

  // the world outside

  /** Another tab wrote turns of this conversation. */
  changed() {
    this.transcript.refresh();
    this.show();
    const { last } = this.transcript;
    if (this.live === null && isRunning(last?.answer) && last.answer.generation) this.check('joined');
  }

  /** The network or the reader came back: something may have happened on another device. */
  wake() {
    if (this.live?.generation !== null) this.check('resumed');
  }

  /** Keeps what has arrived, for the case that the server will not have it any more. */
  keep() {
    const { live } = this;
    if (live?.fold)
      this.transcript.put({ ...live.turn, answer: { ...live.turn.answer, parts: live.fold.parts } });
  }

  title() {
    const { live } = this;
    const turns = this.transcript.turns;
    const told = live?.fold?.title ?? turns.findLast((turn) => turn.answer?.title)?.answer.title;
    return told || (turns[0]?.text ?? '').split('\n')[0].slice(0, 80);
  }

  show() {
    const { live } = this;
    const turns = this.transcript.turns.map((turn) => (turn.id === live?.turn.id ? live.turn : turn));
    this.page.showTurns(turns);
    this.page.setTitle(this.title());
  }
}
