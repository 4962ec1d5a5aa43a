// Markdown trees → DOM, block by block: while a text grows, only the blocks at its end are built again.

import { copyButton, h } from './dom.js';
import { parseInline } from './inline.js';
import { parseBlocks } from './markdown.js';

/** Shows a growing Markdown text in `root`. */
export class MarkdownView {
  constructor(root) {
    this.root = root;
    this.text = '';
    this.blocks = [];
  }

  /** Shows `text`. `open`: more is coming, so what is unfinished at the end is taken as going on. */
  update(text, open = false) {
    // All blocks but the last two are final (markdown.js says why), as long as the text only grew.
    const keep = text.startsWith(this.text) ? Math.max(0, this.blocks.length - 2) : 0;
    const from = this.blocks[keep]?.start ?? 0;
    const parsed = parseBlocks(text.slice(from));
    const old = this.blocks.splice(keep);
    parsed.forEach((block, index) => {
      const start = from + block.start;
      const next = parsed[index + 1];
      const end = next === undefined ? text.length : from + next.start;
      const growing = open && next === undefined;
      // The same source in the same state gives the same nodes: what stands is not touched.
      const source = text.slice(start, end) + (growing ? '\0' : '');
      const before = old[index];
      if (before?.source === source) this.blocks.push({ ...before, start });
      else this.blocks.push({ start, source, block, node: this.place(block, growing, before) });
    });
    for (const { node } of old.slice(parsed.length)) node.remove();
    this.text = text;
  }

  place(block, open, before) {
    if (before === undefined) return this.root.appendChild(build(block, open));
    if (block.type === 'code' && before.block.type === 'code' && before.block.language === block.language) {
      // Long code grows by its new characters alone, which keeps the reader's selection and scroll position.
      growCode(before.node.querySelector('code').firstChild, block.text);
      return before.node;
    }
    const node = build(block, open);
    before.node.replaceWith(node);
    return node;
  }
}

function growCode(node, text) {
  if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else node.data = text;
}

const BUILDERS = {
  paragraph: (block, open) => h('p', {}, ...inlines(block.text, open)),
  heading: (block, open) => h(`h${Math.min(block.level + 1, 6)}`, {}, ...inlines(block.text, open)),
  rule: () => h('hr'),
  quote: (block, open) => h('blockquote', {}, ...children(block.blocks, open)),
  code: codeBlock,
  list: listBlock,
  table: tableBlock,
};

const build = (block, open) => BUILDERS[block.type](block, open);

const children = (blocks, open) => blocks.map((block, index) => build(block, open && index === blocks.length - 1));

function codeBlock(block) {
  const code = h('code', {}, document.createTextNode(block.text));
  const copy = copyButton('Copy this code', () => code.textContent);
  const bar = h('div', { class: 'code-bar' }, h('span', {}, block.language || 'text'));
  if (copy !== null) bar.append(copy);
  // A region that scrolls sideways must be reachable by keyboard.
  return h('div', { class: 'code' }, bar, h('pre', { tabIndex: 0 }, code));
}

function listBlock(block, open) {
  const list = h(block.ordered ? 'ol' : 'ul');
  if (block.ordered && block.first !== 1) list.start = block.first;
  block.items.forEach((item, index) => {
    const growing = open && index === block.items.length - 1;
    const nodes = item.blocks.flatMap((inner, at) => {
      const last = growing && at === item.blocks.length - 1;
      return block.tight && inner.type === 'paragraph' ? inlines(inner.text, last) : [build(inner, last)];
    });
    const entry = h('li', {}, ...nodes);
    if (item.done !== null) {
      entry.prepend(h('span', { class: 'task', role: 'img', 'aria-label': item.done ? 'done' : 'to do' },
        item.done ? '☑' : '☐'), ' ');
      entry.className = 'has-task';
    }
    list.append(entry);
  });
  return list;
}

function tableBlock(block, open) {
  const row = (cells, tag, last) =>
    h('tr', {}, ...cells.map((cell, index) => {
      const node = h(tag, {}, ...inlines(cell, last));
      if (block.align[index]) node.className = `align-${block.align[index]}`;
      return node;
    }));
  const body = block.rows.map((cells, index) => row(cells, 'td', open && index === block.rows.length - 1));
  const table = h('table', {}, h('thead', {}, row(block.head, 'th', false)), h('tbody', {}, ...body));
  return h('div', { class: 'table', tabIndex: 0 }, table);
}

function inlines(text, open) {
  return parseInline(text, open).map(inline);
}

function inline(node) {
  switch (node.type) {
    case 'text':
      return document.createTextNode(node.text);
    case 'code':
      return h('code', {}, node.text);
    case 'br':
      return h('br');
    case 'link':
      return link(node.href, ...node.children.map(inline));
    default:
      return h(node.type, {}, ...node.children.map(inline));
  }
}

/** A link out of the page. `href` must have come from `safeUrl`. */
export function link(href, ...label) {
  return h('a', { href, target: '_blank', rel: 'noopener noreferrer nofollow' }, ...label);
}
