// The fold: records in order → message parts, usage, prompts. The same law as content.py on the server: what is folded
// up to k and continued after k equals what is folded in one go, also when the first half came as a `sync` record.

const MARKS = ['step', 'agent', 'group'];

const placeOf = (part) =>
  part.type === 'tool'
    ? JSON.stringify(['tool', null, part.call_id])
    : JSON.stringify([part.type, part.agent ?? null, part.part_id ?? null]);

const byKey = (list, key) => new Map((list ?? []).map((entry) => [entry[key], entry]));

/** The content of one generation: `parts`, `text`, `usage` … up to `offset`. */
export class Fold {
  constructor() {
    this.offset = 0;
    this.title = null;
    this.parts = [];
    this.places = new Map();
    this.stepsById = new Map();
    this.usage = [];
    this.promptsByCall = new Map();
    this.approvalsByAction = new Map();
    this.steeringById = new Map();
    /** Counts up at every change, so that a view knows whether to look. */
    this.version = 0;
  }

  get text() {
    return this.parts.map((part) => (part.type === 'text' ? part.text : '')).join('');
  }

  get steps() {
    return [...this.stepsById.values()];
  }

  get prompts() {
    return [...this.promptsByCall.values()];
  }

  get approvals() {
    return [...this.approvalsByAction.values()];
  }

  get steering() {
    return [...this.steeringById.values()];
  }

  /** Takes one record in. One at or below the offset is known already and ignored; `sync` replaces everything. */
  apply({ type, offset, data }) {
    if (type === 'sync') {
      this.restore(data);
      return;
    }
    if (offset <= this.offset) return;
    this.offset = offset;
    // Application types are data of others: own properties only, so that "constructor" is not one of the steps.
    if (!Object.hasOwn(STEPS, type)) return;
    STEPS[type](this, data);
    this.version += 1;
  }

  /** Takes the content that a `sync` record carries, or the answer of `status`, in the place of everything known. */
  restore(known) {
    const state = structuredClone(known); // it grows from here on, and the record belongs to the caller
    this.offset = state.offset;
    this.title = state.title ?? null;
    this.parts = state.content ?? [];
    this.places = new Map(this.parts.map((part, index) => [placeOf(part), index]));
    this.stepsById = byKey(state.steps, 'id');
    this.usage = state.usage ?? [];
    this.promptsByCall = byKey(state.prompts, 'call_id');
    this.approvalsByAction = byKey(state.approvals, 'action_id');
    this.steeringById = byKey(state.steering, 'id');
    this.version += 1;
  }

  add(part, data) {
    for (const mark of MARKS) if (mark in data) part[mark] = data[mark];
    this.parts.push(part);
    this.places.set(placeOf(part), this.parts.length - 1);
    return part;
  }

  grow(kind, data) {
    const part = this.parts[this.places.get(placeOf({ type: kind, agent: data.agent, part_id: data.part_id }))];
    if (part === undefined) this.add({ type: kind, part_id: data.part_id ?? null, text: data.text }, data);
    else part.text += data.text;
  }

  tool(data) {
    const part = this.parts[this.places.get(placeOf({ type: 'tool', call_id: data.call_id }))];
    if (part !== undefined) return part;
    return this.add({ type: 'tool', call_id: data.call_id, name: null, arguments: '', status: 'running' }, data);
  }
}

const attachment = (type) => (fold, data) => fold.add({ ...data, type }, data);

const STEPS = {
  'text.delta': (fold, data) => fold.grow('text', data),
  'reasoning.delta': (fold, data) => fold.grow('reasoning', data),
  'tool.call': (fold, data) => {
    const part = fold.tool(data);
    part.name = data.name;
    if (data.arguments !== undefined && data.arguments !== null)
      part.arguments = typeof data.arguments === 'string' ? data.arguments : JSON.stringify(data.arguments);
  },
  'tool.args.delta': (fold, data) => {
    fold.tool(data).arguments += data.text;
  },
  'tool.result': (fold, data) => {
    Object.assign(fold.tool(data), { status: 'done', output: data.output ?? null });
    fold.promptsByCall.delete(data.call_id);
  },
  'tool.error': (fold, data) => {
    Object.assign(fold.tool(data), { status: 'error', error: data.message });
    fold.promptsByCall.delete(data.call_id);
  },
  'tool.auth': (fold, data) => fold.promptsByCall.set(data.call_id, data),
  'step.started': (fold, data) => fold.stepsById.set(data.id, { status: 'running', ...data }),
  'step.finished': (fold, data) =>
    fold.stepsById.set(data.id, { ...fold.stepsById.get(data.id), ...data, status: 'finished' }),
  'approval.requested': (fold, data) => fold.approvalsByAction.set(data.action_id, data),
  'approval.resolved': (fold, data) => fold.approvalsByAction.delete(data.action_id),
  'steer.queued': (fold, data) => fold.steeringById.set(data.id, data),
  'steer.applied': (fold, data) => {
    fold.steeringById.delete(data.id);
    fold.add({ type: 'user', id: data.id, text: data.text }, data);
  },
  'agent.update': (fold, data) => fold.add({ type: 'agent', message: data.message ?? null }, data),
  file: attachment('file'),
  source: attachment('source'),
  title: (fold, data) => {
    fold.title = data.text;
  },
  usage: (fold, data) => fold.usage.push(data),
  failed: (fold, data) =>
    fold.add({ type: 'error', code: data.code ?? null, message: data.message ?? null }, data),
};
