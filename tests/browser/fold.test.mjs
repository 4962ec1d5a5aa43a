// The page's fold against the server's: the same records, folded by content.py, must give the same content.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { Fold } from '../../src/unspool/web/fold.js';

const state = (fold) => ({
  offset: fold.offset, content: fold.parts, steps: fold.steps, usage: fold.usage, prompts: fold.prompts,
  approvals: fold.approvals, steering: fold.steering, title: fold.title, text: fold.text,
});

function apply(fold, records) {
  for (const [type, offset, data] of records) fold.apply(type, offset, structuredClone(data));
  return fold;
}

// [{records: [[type, offset, data]], half, sync, expected}], written by the server's fold; without them, nothing to compare.
const file = process.env.UNSPOOL_FOLD_CASES;
const cases = file ? JSON.parse(readFileSync(file, 'utf8')) : [];

test('the same content as the server', { skip: file ? false : 'UNSPOOL_FOLD_CASES is not set' }, () => {
  assert.ok(cases.length > 0);
  for (const { records, half, sync, expected } of cases) {
    assert.deepEqual(state(apply(new Fold(), records)), expected);
    const resumed = new Fold();
    resumed.apply('sync', sync.offset, structuredClone(sync));
    apply(resumed, records.slice(half));
    assert.deepEqual(state(resumed), expected, 'continued from a snapshot');
  }
});

test('what is known already is ignored', () => {
  const records = [['text.delta', 1, { part_id: 'p', text: 'a' }], ['text.delta', 2, { part_id: 'p', text: 'b' }]];
  const fold = apply(new Fold(), [...records, ...records]);
  assert.equal(fold.text, 'ab');
});

test('a snapshot in mid-stream replaces everything', () => {
  const fold = apply(new Fold(), [['text.delta', 1, { part_id: 'p', text: 'old' }]]);
  fold.apply('sync', 9, { offset: 9, content: [{ type: 'text', part_id: 'q', text: 'new' }], steps: [], usage: [] });
  fold.apply('text.delta', 9, { part_id: 'q', text: 'again' });
  fold.apply('text.delta', 10, { part_id: 'q', text: 'er' });
  assert.equal(fold.text, 'newer');
});

test('names of others are only data', () => {
  const fold = new Fold();
  for (const [index, type] of ['constructor', '__proto__', 'toString', 'x.own'].entries()) fold.apply(type, index + 1, {});
  fold.apply('tool.call', 5, { call_id: '__proto__', name: 'x' });
  assert.deepEqual(fold.parts.map((part) => part.name), ['x']);
  assert.equal(fold.offset, 5);
});
