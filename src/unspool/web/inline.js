// Markdown within a block: text → a tree of plain objects. No DOM here, and nothing that is ever taken as HTML.
//
// Models stop in the middle of a word, and the reader sees it: with `open` a construct that has begun and not ended yet
// is taken as one that goes on, so that `**bol` is bold from its first letter and nothing jumps when the end arrives.

const MAX_DEPTH = 8;
// What is longer than any paragraph is shown as it is: it keeps a hostile answer from costing quadratic time.
const MAX_LENGTH = 20_000;
// How far a bracket is looked for: longer than any label or address.
const MAX_BRACKETS = 4000;

const SPECIAL = /[\\`*_~[!<\n]|https?:\/\//g;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}]/u;
const AUTOLINK = /<((?:https?:\/\/|mailto:)[^\s<>]*|[\w.+-]+@[\w-]+(?:\.[\w-]+)+)>/iy;
const BREAK = /<br ?\/?>/iy;
const BARE = /https?:\/\/[^\s<>`]+/y;
const SCHEMES = new Set(['http:', 'https:', 'mailto:']);

/** The address when it is one that a link may have, else null. Relative ones and other schemes are refused. */
export function safeUrl(raw) {
  try {
    // The browser's own parser decides: it drops tabs, newlines and control characters just as a click would.
    const url = new URL(raw);
    return SCHEMES.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** Inline nodes of `text`: text, code, strong, em, del, link, br. */
export function parseInline(text, open = false) {
  if (text.length > MAX_LENGTH) return [{ type: 'text', text }];
  return new Inline(text, open, 0, false).parse();
}

class Inline {
  constructor(text, open, depth, inLink) {
    this.text = text;
    this.open = open;
    this.depth = depth;
    this.inLink = inLink;
    this.nodes = [];
    this.plain = '';
    this.at = 0;
    // Delimiters that were looked for in vain: what is not in the rest of the text is not in less of it either.
    this.missing = new Set();
  }

  parse() {
    const { text } = this;
    while (this.at < text.length) {
      SPECIAL.lastIndex = this.at;
      const found = SPECIAL.exec(text);
      if (found === null) {
        this.plain += text.slice(this.at);
        break;
      }
      this.plain += text.slice(this.at, found.index);
      this.at = found.index;
      this.construct(text[this.at]);
    }
    this.flush();
    return this.nodes;
  }

  construct(char) {
    if (char === '\\') this.escape();
    else if (char === '`') this.code();
    else if (char === '*' || char === '_' || char === '~') this.emphasis(char);
    else if (char === '[') this.link(this.at);
    else if (char === '!') this.image();
    else if (char === '<') this.angle();
    else if (char === '\n') this.newline();
    else this.bare();
  }

  flush() {
    if (this.plain !== '') this.nodes.push({ type: 'text', text: this.plain });
    this.plain = '';
  }

  push(node, end) {
    this.flush();
    this.nodes.push(node);
    this.at = end;
  }

  literal(length) {
    this.plain += this.text.slice(this.at, this.at + length);
    this.at += length;
  }

  inner(start, end, { open = false, inLink = this.inLink } = {}) {
    const text = this.text.slice(start, end);
    if (this.depth >= MAX_DEPTH) return [{ type: 'text', text }];
    return new Inline(text, open, this.depth + 1, inLink).parse();
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === '\n') this.push({ type: 'br' }, this.at + 2);
    else if (next !== undefined && ESCAPABLE.test(next)) {
      this.plain += next;
      this.at += 2;
    } else this.literal(1);
  }

  newline() {
    if (this.plain.endsWith('  ')) {
      this.plain = this.plain.trimEnd();
      this.push({ type: 'br' }, this.at + 1);
    } else this.literal(1);
  }

  run(at) {
    const char = this.text[at];
    let end = at;
    while (this.text[end] === char) end += 1;
    return end - at;
  }

  code() {
    const size = this.run(this.at);
    const start = this.at + size;
    const end = this.codeEnd(start, size);
    if (end >= 0) this.push(codeNode(this.text.slice(start, end)), end + size);
    else if (this.open && start < this.text.length) this.push(codeNode(this.text.slice(start)), this.text.length);
    else this.literal(size);
  }

  codeEnd(start, size) {
    if (this.missing.has(`\`${size}`)) return -1;
    for (let at = this.text.indexOf('`', start); at >= 0; at = this.text.indexOf('`', at)) {
      const found = this.run(at);
      if (found === size) return at;
      at += found;
    }
    this.missing.add(`\`${size}`);
    return -1;
  }

  emphasis(char) {
    const length = this.run(this.at);
    const start = this.at + length;
    const before = this.text[this.at - 1];
    const after = this.text[start];
    const opens =
      after !== undefined && !/\s/.test(after) && length <= (char === '~' ? 2 : 3) &&
      (char !== '~' || length === 2) && (char !== '_' || before === undefined || !WORD.test(before));
    if (!opens) {
      this.literal(length);
      return;
    }
    const end = this.closer(char, length, start);
    if (end >= 0) this.push(emphasised(char, length, this.inner(start, end)), end + length);
    else if (this.open && (length > 1 || char !== '*' || before === undefined || !WORD.test(before))) {
      const children = this.inner(start, this.text.length, { open: true });
      this.push(emphasised(char, length, children), this.text.length);
    } else this.literal(length);
  }

  /** Where the delimiter that closes begins, or -1. Code and escaped characters between are skipped. */
  closer(char, length, start) {
    const { text } = this;
    const key = `${char}${length}`;
    if (this.missing.has(key)) return -1;
    for (let at = start; at < text.length; at += 1) {
      if (text[at] === '\\') at += 1;
      else if (text[at] === '`') {
        const size = this.run(at);
        const end = this.codeEnd(at + size, size);
        at = (end < 0 ? at : end) + size - 1;
      } else if (text[at] === char) {
        const size = this.run(at);
        const after = text[at + size];
        const whole = char !== '_' || after === undefined || !WORD.test(after);
        // Of a longer run the last ones close: **a *b*** ends the inner emphasis first.
        if (whole && (size === length || size === 3) && size >= length && !/\s/.test(text[at - 1] ?? ' '))
          return at + size - length;
        at += size - 1;
      }
    }
    this.missing.add(key);
    return -1;
  }

  image() {
    if (this.text[this.at + 1] === '[') this.link(this.at + 1, 'image');
    else this.literal(1);
  }

  link(bracket, fallback = '') {
    const labelEnd = this.balanced(bracket, '[', ']');
    if (labelEnd < 0 || this.text[labelEnd + 1] !== '(') {
      this.literal(bracket - this.at + 1);
      return;
    }
    const targetEnd = this.balanced(labelEnd + 1, '(', ')');
    const onItsWay = this.open && !/\s/.test(this.text.slice(labelEnd + 1));
    if (targetEnd < 0 && !onItsWay) {
      this.literal(bracket - this.at + 1);
      return;
    }
    let children = this.inner(bracket + 1, labelEnd, { inLink: true });
    if (children.length === 0) children = [{ type: 'text', text: fallback }];
    if (targetEnd < 0) {
      // The address is still on its way: the label alone, until it is known where it leads.
      this.push({ type: 'span', children }, this.text.length);
      return;
    }
    const target = this.text.slice(labelEnd + 2, targetEnd).trim();
    const address = /^<([^<>]*)>|^\S+/.exec(target);
    const href = this.inLink || address === null ? null : safeUrl(address[1] ?? address[0]);
    this.push(href === null ? { type: 'span', children } : { type: 'link', href, children }, targetEnd + 1);
  }

  balanced(start, opening, closing) {
    if (this.missing.has(closing)) return -1;
    let depth = 0;
    const limit = Math.min(this.text.length, start + MAX_BRACKETS);
    for (let at = start; at < limit; at += 1) {
      const char = this.text[at];
      if (char === '\\') at += 1;
      else if (char === opening) depth += 1;
      else if (char === closing) {
        depth -= 1;
        if (depth === 0) return at;
      } else if (char === '\n' && opening === '(') return -1;
    }
    if (this.text.indexOf(closing, start) < 0) this.missing.add(closing);
    return -1;
  }

  angle() {
    BREAK.lastIndex = this.at;
    AUTOLINK.lastIndex = this.at;
    const found = AUTOLINK.exec(this.text);
    if (BREAK.test(this.text)) this.push({ type: 'br' }, BREAK.lastIndex);
    else if (found === null || this.inLink) this.literal(1);
    else {
      const href = safeUrl(found[1].includes(':') ? found[1] : `mailto:${found[1]}`);
      const label = { type: 'text', text: found[1] };
      this.push(href === null ? label : { type: 'link', href, children: [label] }, this.at + found[0].length);
    }
  }

  bare() {
    BARE.lastIndex = this.at;
    const found = BARE.exec(this.text);
    const before = this.text[this.at - 1];
    if (found === null || this.inLink || (before !== undefined && WORD.test(before))) {
      this.literal(4);
      return;
    }
    let raw = found[0].replace(/[.,;:!?'"*_~\]]+$/, '');
    // A closing bracket belongs to the address only when its opening one does.
    while (raw.endsWith(')') && raw.split('(').length < raw.split(')').length) raw = raw.slice(0, -1);
    const href = safeUrl(raw);
    if (href === null) this.literal(4);
    else this.push({ type: 'link', href, children: [{ type: 'text', text: raw }] }, this.at + raw.length);
  }
}

function codeNode(raw) {
  const text = raw.replaceAll('\n', ' ');
  const padded = text.length > 2 && text.startsWith(' ') && text.endsWith(' ') && text.trim() !== '';
  return { type: 'code', text: padded ? text.slice(1, -1) : text };
}

function emphasised(char, length, children) {
  if (char === '~') return { type: 'del', children };
  if (length === 3) return { type: 'strong', children: [{ type: 'em', children }] };
  return { type: length === 2 ? 'strong' : 'em', children };
}
