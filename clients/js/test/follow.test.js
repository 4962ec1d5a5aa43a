// Following, against a server that does what servers and networks do.

import assert from 'node:assert/strict';
import { mock, test } from 'node:test';

import { Client, UnspoolError } from '../src/index.js';
import { collect, cut, end, frame, last, refuse, serve, silent, stall, stream } from './server.js';

const HASTY = 'retry: 1\n';
const LONG = { 'retry-after': '60' };

// Chance is not what these tests are about: the server's `retry:` alone says how long is waited.
mock.method(Math, 'random', () => 0);

const offsets = (records) => records.map(({ offset }) => offset);
const positions = (requests) => requests.map(({ headers }) => headers['last-event-id']);

async function follow(t, answers, options, clientOptions) {
  const server = await serve(t, ...answers);
  const states = [];
  const client = new Client(server.url, clientOptions);
  const records = await collect(client.follow('s', { onState: ({ name }) => states.push(name), ...options }));
  return { ...server, records, states };
}

test('records have offset, generation, type and data', async (t) => {
  const { records, requests } = await follow(t, [stream(frame(1, { data: { text: 'é' } }), last(2))]);
  assert.deepEqual(records, [
    { offset: 1, generation: 1, type: 'text.delta', data: { text: 'é' } },
    { offset: 2, generation: 1, type: 'completed', data: {} },
  ]);
  assert.equal(requests[0].url, '/v1/streams/s/events');
  assert.equal(requests[0].headers.accept, 'text/event-stream');
});

test('a cut connection is taken up at the position, in the generation it began with', async (t) => {
  const { records, requests, states } = await follow(t, [
    cut(HASTY, frame(1, { generation: 4 }), frame(2, { generation: 4 })),
    cut(frame(3, { generation: 4 })),
    stream(last(4, 4)),
  ]);
  assert.deepEqual(offsets(records), [1, 2, 3, 4]);
  assert.deepEqual(positions(requests), [undefined, '4-2', '4-3']);
  assert.deepEqual(requests.map(({ url }) => url.split('?')[1]), [undefined, 'generation=4', 'generation=4']);
  assert.deepEqual(states, [
    'connecting', 'live', 'waiting', 'connecting', 'live', 'waiting', 'connecting', 'live',
  ]);
});

test('the log that was followed is named, also where its server has lost it', async (t) => {
  const told = (name, ...frames) => (request, response) => {
    response.setHeader('x-unspool-log', name);
    cut(...frames)(request, response);
  };
  const gone = refuse(409, { code: 'invalid_position', title: 'The log that was followed is lost.' });
  const server = await serve(t, told('one', HASTY, frame(1)), told('two', frame(2)), gone);
  const records = [];
  await assert.rejects(async () => {
    for await (const record of new Client(server.url).follow('s')) records.push(record);
  }, { code: 'invalid_position' });
  assert.deepEqual(offsets(records), [1, 2]);
  assert.deepEqual(server.requests.map(({ url }) => url.split('?')[1]), [
    undefined, 'generation=1&log=one', 'generation=1&log=one',
  ]);
});

test('a clean end without a terminal record is a cut connection', async (t) => {
  const { records } = await follow(t, [stream(HASTY, frame(1)), stream(last(2))]);
  assert.deepEqual(offsets(records), [1, 2]);
});

test('an event cut in its middle is not delivered, and asked for again', async (t) => {
  const { records, requests } = await follow(t, [cut(HASTY, frame(1), frame(2).slice(0, -1)), stream(frame(2), last(3))]);
  assert.deepEqual(offsets(records), [1, 2, 3]);
  assert.deepEqual(positions(requests), [undefined, '1-1']);
});

test('nothing is read after the terminal record', async (t) => {
  const { records, requests } = await follow(t, [stream(last(1), frame(2), last(3))]);
  assert.deepEqual(offsets(records), [1]);
  assert.equal(requests.length, 1);
});

test('a position of the caller is where it begins', async (t) => {
  const { requests } = await follow(t, [stream(last(8, 3))], { generation: 3, after: 7 });
  assert.deepEqual(positions(requests), ['3-7']);
  assert.equal(requests[0].url, '/v1/streams/s/events?generation=3');
});

test('an offset without its generation is refused', async () => {
  assert.throws(() => new Client('http://127.0.0.1:9').follow('s', { after: 7 }), TypeError);
});

test('nothing comes after the position of a generation that has ended', async (t) => {
  const { records, requests } = await follow(t, [end], { generation: 3, after: 7 });
  assert.deepEqual(records, []);
  assert.equal(requests.length, 1);
});

test('a snapshot is asked for until one has come, then the position', async (t) => {
  const sync = frame(5, { type: 'sync', data: { offset: 5, status: 'running' } });
  const { records, requests } = await follow(
    t, [cut(HASTY, sync.slice(0, 20)), cut(HASTY, sync), stream(last(6))], { snapshot: true, generation: 1 },
  );
  assert.deepEqual(offsets(records), [5, 6]);
  assert.deepEqual(requests.map(({ url }) => url.split('?')[1]), [
    'generation=1&snapshot=1', 'generation=1&snapshot=1', 'generation=1',
  ]);
});

test('the snapshot of a generation that has ended is the end, without a wait', async (t) => {
  const sync = frame(5, { type: 'sync', data: { offset: 5, status: 'aborted' } });
  const { records, requests } = await follow(t, [stream('retry: 60000\n', sync), end], { snapshot: true, attempts: 1 });
  assert.deepEqual(offsets(records), [5]);
  assert.deepEqual(positions(requests), [undefined, '1-5']);
});

test('5xx, 429 and refused connections pass', async (t) => {
  const { records, requests } = await follow(t, [
    refuse(503, { code: 'shutting_down', detail: 'Soon.' }),
    refuse(502, '<html>Bad gateway</html>'),
    refuse(429, ''),
    (request) => request.socket.destroy(),
    stream(last(1)),
  ]);
  assert.deepEqual(offsets(records), [1]);
  assert.equal(requests.length, 5);
});

test('any other refusal is final, and typed by its problem document', async (t) => {
  const { url, requests } = await serve(t,
    cut(HASTY, frame(1)), refuse(409, { code: 'invalid_position', detail: 'Beyond the end.', generation: 2 }));
  const seen = [];
  const following = async () => {
    for await (const record of new Client(url).follow('s')) seen.push(record);
  };
  await assert.rejects(following(), (error) => {
    assert.ok(error instanceof UnspoolError);
    const { code, status, title, message, problem, retryable } = error;
    assert.deepEqual({ code, status, title, message, retryable }, {
      code: 'invalid_position', status: 409, title: 'A title.', message: 'Beyond the end.', retryable: false,
    });
    assert.equal(problem.generation, 2);
    return true;
  });
  assert.deepEqual(offsets(seen), [1]);
  assert.equal(requests.length, 2);
});

test('what is not an event stream of unspool is final', async (t) => {
  const cases = [
    (_, response) => response.end('<html>'),
    stream('data: 1\n\n'),
    stream('data: 1\nid: seven\n\n'),
    stream('data: {\nid: 1-1\n\n'),
  ];
  for (const answer of cases) {
    const { url } = await serve(t, answer);
    await assert.rejects(collect(new Client(url).follow('s')), { name: 'UnspoolError', code: 'unexpected_answer' });
  }
});

test('a head that was cut, which Chromium takes for a whole one, is a cut connection', async (t) => {
  const { url } = await serve(t, stream(HASTY, frame(1), last(2)));
  for (const type of ['', 'text/eve']) {
    const cutHead = () => Promise.resolve(new Response(null, { headers: type ? { 'content-type': type } : {} }));
    const answers = [cutHead, () => Promise.resolve({ status: 20 }), fetch];
    const client = new Client(url, { fetch: (...request) => answers.shift()(...request) });
    assert.deepEqual(offsets(await collect(client.follow('s'))), [1, 2]);
  }
});

test('attempts bound how often in a row it may fail', async (t) => {
  const refused = refuse(503, { code: 'store_unavailable' });
  const { url, requests } = await serve(t, refused, refused, cut(HASTY, frame(1)), refused, refused, refused);
  await assert.rejects(collect(new Client(url).follow('s', { attempts: 3 })), { code: 'store_unavailable', status: 503 });
  assert.equal(requests.length, 5); // the cut after a record is the first failure of the second row
});

test('a silent connection is dead, and a comment is not silence', async (t) => {
  const server = await serve(t, stall(frame(1)), (request, response) => {
    stall()(request, response);
    let beats = 0;
    const beat = setInterval(() => {
      beats += 1;
      response.write(beats < 20 ? ': ka\n' : last(2));
      if (beats === 20) clearInterval(beat);
    }, 20);
  });
  const records = await collect(new Client(server.url, { silence: 200 }).follow('s'));
  assert.deepEqual(offsets(records), [1, 2]);
  assert.deepEqual(positions(server.requests), [undefined, '1-1']);
});

test('a server that does not answer at all is given up too', async (t) => {
  const { records, requests } = await follow(t, [silent, stream(last(1))], {}, { silence: 100 });
  assert.deepEqual(offsets(records), [1]);
  assert.equal(requests.length, 2);
});

test('a slow reader is not a silent server', async (t) => {
  const server = await serve(t, stream(frame(1), frame(2), last(3)));
  for await (const _ of new Client(server.url, { silence: 50 }).follow('s'))
    await new Promise((resolve) => setTimeout(resolve, 150));
  assert.equal(server.requests.length, 1);
});

test('the signal ends it quietly, wherever it stands', { timeout: 10_000 }, async (t) => {
  const cases = {
    connecting: silent,
    live: stall(frame(1)),
    waiting: refuse(503, { code: 'x' }, LONG),
  };
  for (const [state, answer] of Object.entries(cases)) {
    const { url, requests } = await serve(t, answer);
    const abort = new AbortController();
    const onState = ({ name }) => name === state && setImmediate(() => abort.abort());
    await collect(new Client(url).follow('s', { signal: abort.signal, onState }));
    assert.ok(abort.signal.aborted);
    assert.ok(requests.length <= 1, state);
  }
  const { url, requests } = await serve(t, stream(last(1)));
  assert.deepEqual(await collect(new Client(url).follow('s', { signal: AbortSignal.abort() })), []);
  assert.equal(requests.length, 0);
});

test('after the signal nothing more is delivered, even if it has arrived', async (t) => {
  const { url } = await serve(t, stream(frame(1), frame(2), last(3)));
  const abort = new AbortController();
  const seen = [];
  for await (const record of new Client(url).follow('s', { signal: abort.signal })) {
    seen.push(record);
    abort.abort();
  }
  assert.deepEqual(offsets(seen), [1]);
});

test('leaving the loop closes the connection', { timeout: 10_000 }, async (t) => {
  const closed = Promise.withResolvers?.() ?? deferred();
  const { url } = await serve(t, (request, response) => {
    request.socket.on('close', closed.resolve);
    stall(frame(1))(request, response);
  });
  for await (const _ of new Client(url).follow('s')) break;
  await closed.promise;
});

test('there is one reader at a time: the old connection is closed before the next is opened', async (t) => {
  const { url } = await serve(t, cut(HASTY, frame(1)), refuse(503, { code: 'x' }), stall(frame(2)), stream(last(3)));
  const signals = [];
  const watched = (address, options) => {
    assert.ok(signals.every(({ aborted }) => aborted));
    signals.push(options.signal);
    return fetch(address, options);
  };
  const records = await collect(new Client(url, { fetch: watched, silence: 200 }).follow('s'));
  assert.deepEqual(offsets(records), [1, 2, 3]);
  assert.equal(signals.length, 4);
  assert.ok(signals.every(({ aborted }) => aborted));
});

function deferred() {
  let resolve;
  const promise = new Promise((done) => (resolve = done));
  return { promise, resolve };
}
