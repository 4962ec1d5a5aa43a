// Markdown: what it becomes, that half of it is rendered like the whole, and that no input makes it unsafe or slow.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { parseInline, safeUrl } from '../../src/unspool/web/inline.js';
import { parseBlocks } from '../../src/unspool/web/markdown.js';

/** As much of a document as the renderer uses; what it holds is written out as HTML would be. */
class Node {
  constructor(tag, data = '') {
    Object.assign(this, { tag, data, nodes: [], parent: null, attributes: {} });
  }

  setAttribute(name, value) {
    this.attributes[name] = value;
  }

  append(...nodes) {
    for (const node of nodes) this.appendChild(typeof node === 'string' ? document.createTextNode(node) : node);
  }

  prepend(...nodes) {
    const rest = this.nodes;
    this.nodes = [];
    this.append(...nodes);
    this.nodes.push(...rest);
  }

  appendChild(node) {
    node.parent = this;
    this.nodes.push(node);
    return node;
  }

  appendData(text) {
    this.data += text;
  }

  replaceWith(node) {
    node.parent = this.parent;
    this.parent.nodes[this.parent.nodes.indexOf(this)] = node;
  }

  remove() {
    this.parent.nodes.splice(this.parent.nodes.indexOf(this), 1);
  }

  addEventListener() {}

  get firstChild() {
    return this.nodes[0];
  }

  querySelector(tag) {
    for (const node of this.nodes) {
      const found = node.tag === tag ? node : node.querySelector(tag);
      if (found) return found;
    }
    return null;
  }

  toString() {
    if (this.tag === '#text') return this.data.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
    const inner = this.nodes.join('');
    const href = this.href ? ` href=${this.href}` : '';
    return this.tag === 'root' ? inner : `<${this.tag}${href}>${inner}</${this.tag}>`;
  }
}

globalThis.navigator ??= {};
globalThis.document = { createElement: (tag) => new Node(tag), createTextNode: (text) => new Node('#text', text) };
const { MarkdownView } = await import('../../src/unspool/web/render.js');

function render(text, open = false) {
  const root = new Node('root');
  new MarkdownView(root).update(text, open);
  return String(root);
}

const HTML = [
  ['para *one*\ntwo', '<p>para <em>one</em>\ntwo</p>'],
  ['# Title #\n## C#', '<h2>Title</h2><h3>C#</h3>'],
  ['***a*** **b *c* d** __e__ _f_ ~~g~~', '<p><strong><em>a</em></strong> <strong>b <em>c</em> d</strong> <strong>e</strong> <em>f</em> <del>g</del></p>'],
  ['snake_case_name and 2 * 3 * 4', '<p>snake_case_name and 2 * 3 * 4</p>'],
  ['`a` ``b`c`` \\*no\\*', '<p><code>a</code> <code>b`c</code> *no*</p>'],
  ['a  \nb<br>c', '<p>a<br></br>b<br></br>c</p>'],
  ['- a\n- b\n  - c\n\ntext', '<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul><p>text</p>'],
  ['1. a\n   more\n2. b', '<ol><li>a\nmore</li><li>b</li></ol>'],
  ['- a\n\n- b', '<ul><li><p>a</p></li><li><p>b</p></li></ul>'],
  ['> a\n> - b', '<blockquote><p>a</p><ul><li>b</li></ul></blockquote>'],
  ['a\n\n---\n\nb', '<p>a</p><hr></hr><p>b</p>'],
  ['[a](https://x.org/) https://y.org/p(q).', '<p><a href=https://x.org/>a</a> <a href=https://y.org/p(q)>https://y.org/p(q)</a>.</p>'],
  ['<https://x.org/> <me@x.org>', '<p><a href=https://x.org/>https://x.org/</a> <a href=mailto:me@x.org>me@x.org</a></p>'],
  ['<b onclick=x>&amp;</b>', '<p>&lt;b onclick=x>&amp;amp;&lt;/b></p>'],
  ['[a](javascript:x) [b](java\tscript:x) [c](//x.org) [d](data:x)', '<p><span>a</span> <span>b</span> <span>c</span> <span>d</span></p>'],
];

for (const [text, expected] of HTML) test(`renders ${JSON.stringify(text)}`, () => assert.equal(render(text), expected));

test('fenced code keeps what is in it', () => {
  const [block] = parseBlocks('```js x\n<b>\n  *a*\n\n```\nafter');
  assert.deepEqual([block.type, block.language, block.text], ['code', 'js', '<b>\n  *a*\n']);
});

test('a table', () => {
  const [block] = parseBlocks('| a | b |\n|:-:|--:|\n| 1 \\| 2 | 3 |\n| 4 |\n\nx');
  assert.deepEqual(block.align, ['center', 'right']);
  assert.deepEqual(block.rows, [['1 | 2', '3'], ['4', '']]);
});

test('what has begun is shown as going on while more is coming', () => {
  assert.equal(render('a **bo', true), '<p>a <strong>bo</strong></p>');
  assert.equal(render('a `co', true), '<p>a <code>co</code></p>');
  assert.equal(render('[label](https://exa', true), '<p><span>label</span></p>');
  assert.equal(render('a **bo', false), '<p>a **bo</p>');
  assert.equal(parseBlocks('```py\nx = 1')[0].text, 'x = 1');
});

test('links lead to http, https and mailto only', () => {
  for (const bad of ['javascript:x', ' javascript:x', 'java\nscript:x', 'JAVASCRIPT:x', '\u0001javascript:x', 'data:text/html,x',
    'vbscript:x', 'file:///etc/passwd', 'blob:https://x/y', '//x.org', '/x', '#x', '', undefined])
    assert.equal(safeUrl(bad), null, String(bad));
  for (const good of ['https://x.org/', 'http://x.org/', 'mailto:a@x.org']) assert.equal(safeUrl(good), good);
});

const PIECES = ['# h', '\n', '\n\n', '- ', '1. ', '2) ', '> ', '```', '```js\n', '~~~', '---', '***', '**', '*', '_', '`', '|', '\n|---|---|\n',
  '| a | b |', '--|--', 'word', ' ', '  ', '    ', '[a](https://x.org)', '[', '](', ')', '<b>', '\\', '![', '- [x] ', '\t', '\r\n', '='];

/** A small generator with a seed: the same documents in every run. */
function random(seed) {
  let value = seed;
  return (below) => {
    value = (value * 1103515245 + 12345) % 2147483648;
    return Math.floor((value / 2147483648) * below);
  };
}

test('a text that grows is rendered like the whole, at every length', () => {
  for (let seed = 1; seed <= 250; seed += 1) {
    const next = random(seed);
    const text = Array.from({ length: 3 + next(30) }, () => PIECES[next(PIECES.length)]).join('');
    const root = new Node('root');
    const view = new MarkdownView(root);
    let length = 0;
    while (length < text.length) {
      length = Math.min(text.length, length + 1 + next(4));
      const part = text.slice(0, length);
      view.update(part, true);
      assert.equal(String(root), render(part, true), JSON.stringify(part));
    }
    view.update(text, false);
    assert.equal(String(root), render(text), JSON.stringify(text));
  }
});

test('what is final is not built again', () => {
  const root = new Node('root');
  const view = new MarkdownView(root);
  view.update('one\n\ntwo\n\nthree', true);
  const [first, second] = root.nodes;
  view.update('one\n\ntwo\n\nthree and more\n\nfour', true);
  assert.equal(root.nodes[0], first);
  assert.equal(root.nodes[1], second);
});

test('no text takes long', () => {
  const hostile = ['[', '*', '**a ', '_a ', '`', '`a`` ', '![', '(', '[a](', '<', 'http://', '~~a ', '\\', '[[]', '*a_', '**_`'];
  const blocks = ['- ', '> ', '>', '1. ', '|', '#', '# ', '# #', '\n- a', '| a |\n', ' ', '\t', '- \n', '```', '***', '-|'];
  for (const piece of [...hostile, ...blocks]) {
    const text = piece.repeat(19_000 / piece.length);
    const begun = performance.now();
    parseInline(text, true);
    parseBlocks(text.repeat(3));
    render(text, true);
    // A few milliseconds each; what is quadratic takes far longer than this on any machine, however busy.
    assert.ok(performance.now() - begun < 5000, `${JSON.stringify(piece)}: ${performance.now() - begun} ms`);
  }
});
