// The decoder of event streams: the WHATWG rules, each fed whole, byte by byte, and cut at every place.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Decoder } from '../src/decoder.js';

function decode(chunks) {
  const decoder = new Decoder();
  return chunks.flatMap((chunk) => decoder.feed(chunk)).map(({ type, data, id }) => [type, data, id]);
}

const CASES = [
  ['one event', 'event: a\ndata: 1\nid: 1-1\n\n', [['a', '1', '1-1']]],
  ['no type is a message', 'data: x\n\n', [['message', 'x', '']]],
  ['several data lines', 'data: a\ndata: b\ndata\n\n', [['message', 'a\nb\n', '']]],
  ['one space after the colon is dropped', 'data:  two\n\ndata:none\n\n', [['message', ' two', ''], ['message', 'none', '']]],
  ['CRLF', 'event: a\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n', [['a', '1', ''], ['message', '2', '']]],
  ['CR', 'event: a\rdata: 1\r\rdata: 2\r\r', [['a', '1', ''], ['message', '2', '']]],
  ['mixed line ends', 'data: 1\r\n\ndata: 2\r\r\ndata: 3\n\r\n', [['message', '1', ''], ['message', '2', ''], ['message', '3', '']]],
  ['a byte order mark', '\ufeffdata: 1\n\n', [['message', '1', '']]],
  ['only the first byte order mark', '\ufeff\ufeffdata: 1\n\n', []],
  ['comments', ': ka\n:\ndata: 1\n: ka\n\n', [['message', '1', '']]],
  ['a comment alone is nothing', ': ka\n\n', []],
  ['no data, no event', 'event: a\nid: 7\n\ndata: 1\n\n', [['message', '1', '7']]],
  ['empty data is an event', 'data:\n\n', [['message', '', '']]],
  ['the id stays', 'id: 4\ndata: 1\n\ndata: 2\n\n', [['message', '1', '4'], ['message', '2', '4']]],
  ['an empty id resets', 'id: 4\ndata: 1\n\nid\ndata: 2\n\n', [['message', '1', '4'], ['message', '2', '']]],
  ['an id with NUL is ignored', 'id: 4\ndata: 1\n\nid: 5\0\ndata: 2\n\n', [['message', '1', '4'], ['message', '2', '4']]],
  ['an unfinished block is thrown away', 'data: 1\nid: 1\n\ndata: 2\nid: 2\n', [['message', '1', '1']]],
  ['unknown fields', 'foo: 1\nData: 2\ndata: 3\n\n', [['message', '3', '']]],
  ['characters of every width', 'data: naïve 日本語 🧵\n\n', [['message', 'naïve 日本語 🧵', '']]],
  ['a line separator is no line end', 'data: a\u2028b\u0085c\n\n', [['message', 'a\u2028b\u0085c', '']]],
];

const bytesOf = (text) => new TextEncoder().encode(text);

for (const [name, text, expected] of CASES) {
  test(name, () => {
    const bytes = bytesOf(text);
    assert.deepEqual(decode([bytes]), expected, 'whole');
    assert.deepEqual(decode(Array.from(bytes, (byte) => Uint8Array.of(byte))), expected, 'byte by byte');
    for (let cut = 0; cut <= bytes.length; cut += 1)
      assert.deepEqual(decode([bytes.slice(0, cut), bytes.slice(cut)]), expected, `cut at ${cut}`);
  });
}

test('retry takes digits only', () => {
  const decoder = new Decoder();
  assert.equal(decoder.retry, null);
  decoder.feed(bytesOf('retry: 250\ndata: 1\n\nretry: 1s\nretry: -1\nretry:\ndata: 2\n\n'));
  assert.equal(decoder.retry, 250);
});

test('an event is dispatched with the CR that ends it', () => {
  assert.equal(decode([bytesOf('data: 1\r\r')]).length, 1);
});

test('the position moves at the end of a block, not at its id', () => {
  const decoder = new Decoder();
  decoder.feed(bytesOf('id: 1-1\ndata: 1\n\nid: 1-2\ndata: 2\n'));
  assert.equal(decoder.lastEventId, '1-1');
  decoder.feed(bytesOf('\n'));
  assert.equal(decoder.lastEventId, '1-2');
});
