// One turn on the page: the question, and the answer as far as it is known.

import { copyButton, h, icon, setText } from './dom.js';
import { safeUrl } from './inline.js';
import { partView, problemBox } from './parts.js';
import { link } from './render.js';
import { textOf } from './transcript.js';

const RUNNING = new Set(['starting', 'running', 'requires_action']);

const ENDS = {
  aborted: 'Stopped',
  error: 'Failed',
  replaced: 'Replaced by a newer answer',
  lost: 'Ended out of sight: the server no longer has this answer. What had arrived is kept.',
  unsent: 'Not sent',
};

export const isRunning = (answer) => RUNNING.has(answer?.status);

export class TurnView {
  /** @param {{onRetry: (id: string) => void}} handlers */
  constructor(turn, { onRetry }) {
    this.parts = [];
    this.answer = null;
    this.question = h('div', { class: 'bubble', dir: 'auto' });
    this.note = h('p', { class: 'resumed', hidden: true }, icon('resume'), h('span'));
    this.body = h('div', { class: 'parts' });
    this.pending = h('p', { class: 'pending', 'aria-hidden': 'true', hidden: true }, h('i'), h('i'), h('i'));
    this.asks = h('div', { class: 'asks' });
    this.problem = h('div');
    this.end = h('span', { class: 'end', hidden: true });
    this.usage = h('span', { class: 'usage' });
    this.copy = copyButton('Copy the answer', () => textOf(this.answer?.parts));
    this.retryText = h('span');
    this.retry = h('button', { type: 'button', class: 'quiet retry', hidden: true }, icon('redo'), this.retryText);
    this.retry.addEventListener('click', () => onRetry(turn.id));
    this.foot = h('footer', { class: 'foot', hidden: true }, this.end, this.usage, h('span', { class: 'spring' }));
    if (this.copy !== null) this.foot.append(this.copy);
    this.foot.append(this.retry);
    this.box = h('div', { class: 'answer' },
      this.note, this.body, this.pending, this.asks, this.problem, this.foot);
    this.node = h('article', { class: 'turn', 'data-turn': turn.id }, this.question, this.box);
  }

  /** "resumed at offset 12": where this page took the answer up. Empty text hides the line. */
  setNote(text) {
    this.note.hidden = text === '';
    setText(this.note.lastChild, text);
  }

  /** Shows the turn as it is now. `last`: it may be asked again. */
  update(turn, last) {
    const { answer } = turn;
    this.answer = answer;
    const running = isRunning(answer);
    setText(this.question, turn.text ?? '');
    this.question.hidden = !turn.text;
    this.box.dataset.status = answer?.status ?? 'unsent';
    this.box.setAttribute('aria-busy', String(running));
    this.showParts(answer?.parts ?? [], running);
    this.pending.hidden = !running || answer.parts?.at(-1)?.type === 'text';
    this.showAsks(answer, running);
    this.showProblem(answer);
    this.showFoot(answer, running, last);
  }

  showParts(parts, running) {
    parts.forEach((part, index) => {
      let entry = this.parts[index];
      const kind = `${part.type}/${part.part_id ?? part.call_id ?? ''}`;
      if (entry?.kind !== kind) {
        const view = partView(part);
        if (entry === undefined) this.body.append(view.node);
        else entry.view.node.replaceWith(view.node);
        entry = { kind, view };
        this.parts[index] = entry;
      }
      entry.view.update(part, running && index === parts.length - 1, running);
    });
    for (const { view } of this.parts.splice(parts.length)) view.node.remove();
  }

  showAsks(answer, running) {
    const prompts = running ? (answer.prompts ?? []) : [];
    const approvals = running ? (answer.approvals ?? []) : [];
    const state = JSON.stringify([prompts, approvals]);
    if (state === this.asked) return;
    this.asked = state;
    this.asks.replaceChildren(
      ...prompts.map((prompt) => {
        const href = safeUrl(prompt.url);
        return h('p', { class: 'ask' }, 'A tool needs you to sign in. ', href === null ? '' : link(href, 'Sign in'));
      }),
      ...approvals.map((action) =>
        h('p', { class: 'ask' }, 'Waits for an approval: ', h('strong', {}, String(action.what ?? action.action_id)))),
    );
  }

  showProblem(answer) {
    const message = answer?.error ?? '';
    if (message === this.shownProblem) return;
    this.shownProblem = message;
    this.problem.replaceChildren(...(message ? [problemBox(message)] : []));
  }

  showFoot(answer, running, last) {
    const status = answer?.status ?? 'unsent';
    const end = status === 'aborted' && answer.reason ? `${ENDS.aborted}: ${answer.reason}` : (ENDS[status] ?? '');
    this.end.hidden = running || end === '';
    setText(this.end, end);
    setText(this.usage, usageLine(answer?.usage));
    if (this.copy !== null) this.copy.hidden = textOf(answer?.parts) === '';
    this.retry.hidden = !last;
    setText(this.retryText, status === 'complete' ? 'Regenerate' : 'Try again');
    this.foot.hidden = running;
  }
}

/** Tokens of all model calls of the answer, and which models they were. */
export function usageLine(usage) {
  if (!usage?.length) return '';
  const sum = (name) => usage.reduce((total, entry) => total + (entry[name] ?? 0), 0);
  const count = (number) => number.toLocaleString('en');
  const parts = [`${count(sum('input_tokens'))} tokens in`, `${count(sum('output_tokens'))} out`];
  if (sum('reasoning_tokens')) parts.push(`${count(sum('reasoning_tokens'))} of them reasoning`);
  if (sum('cache_read_tokens')) parts.push(`${count(sum('cache_read_tokens'))} cached`);
  const costs = usage.map((entry) => entry.cost_nano).filter((cost) => typeof cost === 'number');
  if (costs.length) parts.push(dollars(costs.reduce((total, cost) => total + cost, 0)));
  if (usage.some((entry) => entry.source === 'estimate')) parts.push('estimated');
  const models = [...new Set(usage.map((entry) => entry.model).filter(Boolean))];
  return [...parts, ...models].join(' · ');
}

/** An amount in nano-USD for people: "$0.00123", never rounded to nothing. */
export function dollars(nano) {
  const usd = nano / 1e9;
  const digits = usd >= 0.01 || usd === 0 ? 2 : Math.min(9, 1 - Math.floor(Math.log10(usd)));
  return `$${usd.toFixed(digits)}`;
}
