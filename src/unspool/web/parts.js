// One view per message part. Each is asked to `update` again and again while its part grows, and touches only what changed.

import { h, icon, setText } from './dom.js';
import { safeUrl } from './inline.js';
import { link, MarkdownView } from './render.js';

/** A view for a part: {node, update(part, live)}; `live`: the part is the one that is being written. */
export function partView(part) {
  const make = Object.hasOwn(VIEWS, part.type) ? VIEWS[part.type] : unknown;
  return make(part);
}

const VIEWS = { text, reasoning, tool, agent, user, file: attachment, source: attachment, error };

/** With parallel agents every part says whose it is. */
function withAgent(node, part) {
  if (part.agent) node.prepend(h('span', { class: 'tag' }, part.agent));
  return node;
}

function text(part) {
  const body = h('div', { class: 'prose', dir: 'auto' });
  const view = new MarkdownView(body);
  let shown = null;
  return {
    node: withAgent(h('div', { class: 'part' }, body), part),
    update(now, live) {
      const state = `${live ? 1 : 0}${now.text}`;
      if (state === shown) return;
      view.update(now.text, live);
      shown = state;
    },
  };
}

/** A block that opens and closes by itself until the reader takes it over. */
function foldable(name, ...summary) {
  const node = h('details', { class: `part card ${name}` });
  const head = h('summary', {}, ...summary, icon('chevron'));
  let taken = false;
  head.addEventListener('click', () => (taken = true));
  node.append(head);
  return {
    node,
    open(wanted) {
      if (!taken && node.open !== wanted) node.open = wanted;
    },
  };
}

function reasoning(part) {
  const label = h('span', { class: 'card-title' });
  const block = foldable('reasoning', icon('thought'), label);
  const body = h('div', { class: 'card-body', dir: 'auto', tabIndex: 0, role: 'region', 'aria-label': 'Reasoning' });
  block.node.append(body);
  return {
    node: withAgent(block.node, part),
    update(now, live) {
      setText(label, live ? 'Thinking…' : 'Reasoning');
      const grown = body.textContent.length !== now.text.length;
      setText(body, now.text);
      block.open(live);
      if (live && grown) body.scrollTop = body.scrollHeight;
    },
  };
}

const TOOL_STATES = { running: 'running', done: 'done', error: 'failed' };

function tool(part) {
  const name = h('code', { class: 'card-title' });
  const state = h('span', { class: 'chip' });
  const block = foldable('tool', icon('tool'), name, state);
  const sections = ['Arguments', 'Output', 'Error'].map((title) => {
    const value = h('pre', { tabIndex: 0 });
    const section = h('div', { class: 'tool-section', hidden: true }, h('h4', {}, title), value);
    return { section, value };
  });
  block.node.append(h('div', { class: 'card-body' }, ...sections.map(({ section }) => section)));
  return {
    node: withAgent(block.node, part),
    update(now, live, running) {
      // A call whose answer was stopped will never end: it must not look as if it went on.
      const status = now.status === 'running' && !running ? 'ended' : (TOOL_STATES[now.status] ?? now.status);
      setText(name, now.name ?? 'tool');
      setText(state, status);
      block.node.dataset.status = status;
      const values = [pretty(now.arguments), pretty(now.output), now.error ?? ''];
      sections.forEach(({ section, value }, index) => {
        section.hidden = values[index] === '';
        setText(value, values[index]);
      });
      block.open(now.status === 'error' || (live && running));
    },
  };
}

function pretty(value) {
  if (value === undefined || value === null) return '';
  if (typeof value !== 'string') return JSON.stringify(value, null, 2);
  try {
    const parsed = JSON.parse(value);
    return typeof parsed === 'object' && parsed !== null ? JSON.stringify(parsed, null, 2) : value;
  } catch {
    // Arguments still on their way, or plain text.
    return value;
  }
}

function agent(part) {
  const node = h('p', { class: 'part agent' }, h('span', {}, asText(part.message)));
  return { node: withAgent(node, part), update() {} };
}

function user(part) {
  return { node: h('div', { class: 'bubble', dir: 'auto' }, part.text), update() {} };
}

function attachment(part) {
  const href = safeUrl(part.url);
  const label = part.title || part.name || part.url || part.media_type || part.type;
  const node = href === null ? h('span', {}, asText(label)) : link(href, asText(label));
  return { node: h('p', { class: 'part attachment' }, h('span', { class: 'tag' }, part.type), node), update() {} };
}

function error(part) {
  const node = problemBox(part.message || 'The answer failed.', part.code);
  return { node, update() {} };
}

/** What went wrong, in words, and the code for whoever has to look for the cause. */
export function problemBox(message, code) {
  const box = h('p', { class: 'part problem-box' }, icon('alert'), h('span', {}, asText(message)));
  if (code) box.append(h('code', {}, asText(code)));
  return box;
}

function unknown(part) {
  return { node: h('p', { class: 'part agent' }, `[${part.type}]`), update() {} };
}

const asText = (value) => (typeof value === 'string' ? value : JSON.stringify(value ?? ''));
