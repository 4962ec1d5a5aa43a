// What a browser says of its network and its reader. Every wait in here is a minute or for ever: only the events end it.

import assert from 'node:assert/strict';
import { afterEach, beforeEach, mock, test } from 'node:test';

import { Client } from '../src/index.js';
import { collect, cut, frame, json, last, refuse, serve, silent, stall, stream } from './server.js';

const LONG = { 'retry-after': '60' };
const busy = refuse(503, { code: 'x' }, LONG);
const opts = { timeout: 20_000 };

const window_ = new EventTarget();
const document_ = Object.assign(new EventTarget(), { hidden: false });

beforeEach(() => {
  document_.hidden = false;
  globalThis.document = document_;
  globalThis.addEventListener = window_.addEventListener.bind(window_);
  globalThis.removeEventListener = window_.removeEventListener.bind(window_);
});

afterEach(() => {
  delete globalThis.document;
  delete globalThis.addEventListener;
  delete globalThis.removeEventListener;
  mock.timers.reset();
});

const fire = (type, more = {}) => window_.dispatchEvent(Object.assign(new Event(type), more));

function look(hidden) {
  document_.hidden = hidden;
  document_.dispatchEvent(new Event('visibilitychange'));
}

/** Calls `act` each time when the state has this name, after whoever set it has gone to wait. */
const when = (state, act) => ({ name }) => name === state && setImmediate(act);

const comings = {
  'the network returns': () => fire('online'),
  'the tab is looked at': () => look(false),
  'the page comes out of the back-forward cache': () => fire('pageshow', { persisted: true }),
  'the network changes': () => fire('offline'),
};

for (const [name, happen] of Object.entries(comings)) {
  test(`${name}: the wait is over`, opts, async (t) => {
    const { url, requests } = await serve(t, cut('retry: 60000\n', frame(1)), stream(last(2)));
    const records = await collect(new Client(url).follow('s', { onState: when('waiting', happen) }));
    assert.deepEqual(records.map(({ offset }) => offset), [1, 2]);
    assert.equal(requests[1].headers['last-event-id'], '1-1');
  });

  test(`${name}: an attempt that hangs is made anew, without a wait`, opts, async (t) => {
    const { url, requests } = await serve(t, silent, stream(last(1)));
    // The first request has to be under way when it happens.
    const fetching = (address, options) => {
      const answer = fetch(address, options);
      if (requests.length === 0) {
        const poll = setInterval(() => requests.length === 1 && (clearInterval(poll), happen()), 5);
      }
      return answer;
    };
    await collect(new Client(url, { fetch: fetching }).follow('s'));
    assert.equal(requests.length, 2);
  });
}

test('a start that waits is sent at once when the network returns', opts, async (t) => {
  const { url, requests } = await serve(t, busy, json({ generation: 1 }, 201));
  const onState = when('waiting', () => fire('online'));
  await new Client(url).start('s', { messages: [], onState });
  assert.equal(requests[0].body.request_id, requests[1].body.request_id);
});

test('loading a page is no return', opts, async (t) => {
  const { url, requests } = await serve(t, busy);
  const abort = new AbortController();
  const onState = when('waiting', () => {
    fire('pageshow', { persisted: false });
    setImmediate(() => abort.abort());
  });
  await collect(new Client(url).follow('s', { onState, signal: abort.signal }));
  assert.equal(requests.length, 1);
});

test('a connection that has just spoken is kept when the reader returns', opts, async (t) => {
  const { url, requests } = await serve(t, (request, response) => {
    stall(frame(1))(request, response);
    const beat = setInterval(() => response.write(': ka\n'), 10);
    setTimeout(() => {
      clearInterval(beat);
      response.write(last(2));
    }, 300);
  });
  const back = setInterval(() => look(false), 20);
  await collect(new Client(url, { silence: 2000 }).follow('s'));
  clearInterval(back);
  assert.equal(requests.length, 1);
});

test('a connection that was silent in a sleep is replaced when the reader returns', opts, async (t) => {
  const { url, requests } = await serve(t, stall('retry: 60000\n', frame(1)), stream(last(2)));
  const following = new Client(url).follow('s');
  await following.next();
  const next = following.next();
  // The machine slept for half a minute, in which nothing came.
  const slept = Date.now() + 30_000;
  const clock = mock.method(Date, 'now', () => slept);
  look(false);
  clock.mock.restore();
  assert.equal((await next).value.offset, 2);
  assert.equal(requests[1].headers['last-event-id'], '1-1');
  await following.return();
});

test('the network may be gone: the connection is replaced at once', opts, async (t) => {
  const { url, requests } = await serve(t, stall('retry: 60000\n', frame(1)), stream(last(2)));
  const following = new Client(url).follow('s');
  await following.next();
  const next = following.next();
  fire('offline');
  assert.equal((await next).value.offset, 2);
  assert.equal(requests.length, 2);
  await following.return();
});

test('a tab that nobody looks at rests, and goes on when it is looked at', opts, async (t) => {
  const { url, requests } = await serve(t, stall(frame(1)), stream(last(2)));
  const states = [];
  const onState = ({ name }) => {
    states.push(name);
    if (name === 'resting') setImmediate(() => look(false));
  };
  const following = new Client(url).follow('s', { restAfter: 50, onState });
  await following.next();
  const next = following.next();
  look(true);
  assert.equal((await next).value.offset, 2);
  assert.deepEqual(states, ['connecting', 'live', 'resting', 'connecting', 'live']);
  assert.equal(requests[1].headers['last-event-id'], '1-1');
  await following.return();
});

test('nothing is listened to after the end', opts, async (t) => {
  const added = mock.method(globalThis, 'addEventListener');
  const removed = mock.method(globalThis, 'removeEventListener');
  const { url } = await serve(t, stream(last(1)));
  await collect(new Client(url).follow('s'));
  assert.ok(added.mock.callCount() > 0);
  assert.equal(removed.mock.callCount(), added.mock.callCount());
});
