// Start, stop, status, list: what is sent, what is repeated, and what is not.

import assert from 'node:assert/strict';
import { mock, test } from 'node:test';

import { Client } from '../src/index.js';
import { json, refuse, serve, silent } from './server.js';

mock.method(Math, 'random', () => 0);

const hang = (request) => request.socket.destroy();
const messages = [{ role: 'user', content: 'Hello' }];

test('start sends what it was given', async (t) => {
  const started = { stream_id: 'a/b é', generation: 1, status: 'running', events_url: '/x' };
  const { url, requests } = await serve(t, json(started, 201));
  const answer = await new Client(`${url}/prefix/`).start('a/b é', {
    messages, model: 'm', requestId: 'r', expectGeneration: 0, metadata: { title: 'T' },
  });
  assert.deepEqual(answer, { ...started, attached: false });
  const [{ method, url: path, headers, body }] = requests;
  assert.equal(method, 'POST');
  assert.equal(path, '/prefix/v1/streams/a%2Fb%20%C3%A9/generations');
  assert.equal(headers['content-type'], 'application/json');
  assert.deepEqual(body, { messages, model: 'm', request_id: 'r', expect_generation: 0, metadata: { title: 'T' } });
});

test('a repeated start carries the same request id, a new one another', async (t) => {
  const { url, requests } = await serve(t, hang, refuse(503, ''), json({ generation: 1 }), json({ generation: 2 }, 201));
  const client = new Client(url);
  assert.equal((await client.start('s', { messages })).attached, true);
  await client.start('s', { messages });
  const ids = requests.map(({ body }) => body.request_id);
  assert.ok(ids[0]);
  assert.deepEqual(ids.slice(1, 3), [ids[0], ids[0]]);
  assert.notEqual(ids[3], ids[0]);
});

test('a call gives up after its attempts, with the last error', async (t) => {
  const { url, requests } = await serve(t, refuse(503, { code: 'capacity_exceeded', detail: 'Full.' }));
  const client = new Client(url, { attempts: 3 });
  const full = { code: 'capacity_exceeded', message: 'Full.', status: 503 };
  await assert.rejects(client.start('s', { messages }), full);
  assert.equal(requests.length, 3);
  await assert.rejects(client.status('s', { attempts: 1 }), full);
  assert.equal(requests.length, 4);
});

test('a refusal is not repeated', async (t) => {
  const { url, requests } = await serve(t, refuse(409, { code: 'generation_conflict' }));
  await assert.rejects(new Client(url).start('s', { messages }), { code: 'generation_conflict', title: 'A title.' });
  assert.equal(requests.length, 1);
});

test('stop names the generation, so that a repetition cannot stop a later one', async (t) => {
  const { url, requests } = await serve(t, json({ generation: 3 }), hang, json({ outcome: 'stopped' }));
  assert.deepEqual(await new Client(url).stop('s', { reason: 'enough' }), { outcome: 'stopped' });
  assert.deepEqual(requests.map(({ method, url: path }) => `${method} ${path}`), [
    'GET /v1/streams/s', 'POST /v1/streams/s/abort', 'POST /v1/streams/s/abort',
  ]);
  for (const { body } of requests.slice(1)) assert.deepEqual(body, { generation: 3, reason: 'enough' });
});

test('a known generation is stopped with one request', async (t) => {
  const { url, requests } = await serve(t, json({ outcome: 'stopped' }));
  await new Client(url).stop('s', { generation: 2 });
  assert.deepEqual(requests.map(({ body }) => body), [{ generation: 2 }]);
});

test('status and list', async (t) => {
  const { url, requests } = await serve(t, json({ generation: 2 }), json({ streams: [{ stream_id: 's' }] }));
  const client = new Client(new URL(url));
  assert.deepEqual(await client.status('s', { generation: 2 }), { generation: 2 });
  assert.deepEqual(await client.list({ status: 'running', limit: 5 }), [{ stream_id: 's' }]);
  assert.deepEqual(requests.map(({ url: path }) => path), ['/v1/streams/s?generation=2', '/v1/streams?status=running&limit=5']);
});

test('headers are sent with every request; a function is asked each time', async (t) => {
  const { url, requests } = await serve(t, refuse(503, ''), json({ generation: 1 }), json({ outcome: 'stopped' }));
  let count = 0;
  const client = new Client(url, { headers: async () => ({ authorization: `Bearer ${++count}` }) });
  await client.stop('s');
  assert.deepEqual(requests.map(({ headers }) => headers.authorization), ['Bearer 1', 'Bearer 2', 'Bearer 3']);
  const fixed = new Client(url, { headers: new Headers({ 'x-a': '1' }) });
  await fixed.status('s');
  assert.equal(requests.at(-1).headers['x-a'], '1');
});

test('an answer cut in its middle or before it is asked for again; one that is not JSON is not', async (t) => {
  const half = (request, response) => {
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': 100 });
    response.write('{"generation"', () => request.socket.destroy());
  };
  const nothing = (_, response) => response.end();
  const html = (_, response) => response.end('<html>');
  const { url, requests } = await serve(t, half, nothing, json({ generation: 1 }), html);
  assert.deepEqual(await new Client(url).status('s'), { generation: 1 });
  await assert.rejects(new Client(url).status('s'), { code: 'unexpected_answer', status: 200 });
  assert.equal(requests.length, 4);
});

test('a server that does not answer is asked again', async (t) => {
  const { url, requests } = await serve(t, silent, json({ generation: 1 }));
  await new Client(url, { silence: 100 }).status('s');
  assert.equal(requests.length, 2);
});

test('the signal rejects with its reason, under way and waiting', { timeout: 10_000 }, async (t) => {
  const reason = new Error('enough');
  for (const [state, answer] of [['connecting', silent], ['waiting', refuse(503, '', { 'retry-after': '60' })]]) {
    const { url } = await serve(t, answer);
    const abort = new AbortController();
    const onState = ({ name }) => name === state && setTimeout(() => abort.abort(reason), 20);
    await assert.rejects(new Client(url).start('s', { messages, signal: abort.signal, onState }), reason);
  }
});

test('no server at all', async () => {
  const client = new Client('http://127.0.0.1:1', { attempts: 2 });
  await assert.rejects(client.list(), { code: 'unreachable', status: 0, retryable: true });
});
