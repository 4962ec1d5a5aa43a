// When to try again.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { retryAfterOf, UnspoolError } from '../src/errors.js';
import { backOff } from '../src/retry.js';

test('the room for chance doubles with each failure, up to 15 s', () => {
  const longest = [1, 2, 3, 4, 5, 6, 7, 99].map((failures) => backOff(failures, 0, () => 1));
  assert.deepEqual(longest, [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
});

test('the jitter is full: all of the room is used', () => {
  assert.equal(backOff(5, 0, () => 0), 0);
  assert.equal(backOff(5, 0, () => 0.25), 2000);
});

test('what the server asked for is waited whatever chance says, but never more than a minute', () => {
  assert.equal(backOff(1, 3000, () => 0), 3000);
  assert.equal(backOff(1, 3000, () => 1), 3500);
  assert.equal(backOff(1, 1e12, () => 0), 60_000);
});

test('Retry-After as seconds and as a date', () => {
  const now = Date.parse('2026-11-24T10:00:00Z');
  const cases = [
    [null, 0], ['', 0], ['2', 2000], [' 2 ', 2000], ['0', 0], ['-1', 0], ['soon', 0], ['999999', 60_000],
    ['Tue, 24 Nov 2026 10:00:05 GMT', 5000], ['Tue, 24 Nov 2026 09:00:00 GMT', 0],
  ];
  for (const [value, expected] of cases) assert.equal(retryAfterOf(value, now), expected, String(value));
});

test('which errors may pass', () => {
  const retryable = (status, code = 'x') => new UnspoolError('', { status, code }).retryable;
  for (const status of [0, 408, 429, 500, 502, 503, 504]) assert.ok(retryable(status), String(status));
  for (const status of [400, 401, 403, 404, 409, 410, 413, 415, 422]) assert.ok(!retryable(status), String(status));
  assert.ok(retryable(502, 'unexpected_answer'));
  assert.ok(!retryable(200, 'unexpected_answer'));
});
