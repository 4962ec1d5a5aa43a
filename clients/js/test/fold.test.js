// The fold against the server's: the same records, folded by content.py, must give the same content.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { Fold } from '../src/fold.js';

const state = (fold) => ({
  offset: fold.offset, content: fold.parts, steps: fold.steps, usage: fold.usage, prompts: fold.prompts,
  approvals: fold.approvals, steering: fold.steering, title: fold.title, text: fold.text,
});

function apply(fold, records) {
  for (const [type, offset, data] of records) fold.apply({ type, offset, data });
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
    apply(resumed, [['sync', sync.offset, sync], ...records.slice(half)]);
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
  const sync = { offset: 9, content: [{ type: 'text', part_id: 'q', text: 'new' }], steps: [], usage: [] };
  apply(fold, [
    ['sync', 9, sync], ['text.delta', 9, { part_id: 'q', text: 'again' }], ['text.delta', 10, { part_id: 'q', text: 'er' }],
  ]);
  assert.equal(fold.text, 'newer');
});

test('names of others are only data', () => {
  const fold = new Fold();
  apply(fold, ['constructor', '__proto__', 'toString', 'x.own'].map((type, index) => [type, index + 1, {}]));
  apply(fold, [['tool.call', 5, { call_id: '__proto__', name: 'x' }]]);
  assert.deepEqual(fold.parts.map((part) => part.name), ['x']);
  assert.equal(fold.offset, 5);
});

test('what it was given stays as it was', () => {
  const records = [
    ['sync', 1, { offset: 1, content: [{ type: 'text', part_id: 'p', text: 'a' }] }],
    ['text.delta', 2, { part_id: 'p', text: 'b' }],
    ['tool.call', 3, { call_id: 'c', name: 'x' }],
    ['tool.result', 4, { call_id: 'c', output: 1 }],
  ];
  const before = structuredClone(records);
  apply(new Fold(), records);
  assert.deepEqual(records, before);
});
