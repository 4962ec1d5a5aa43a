// Markdown blocks: text → a tree of plain objects. No DOM here; what a block holds is parsed by inline.js when it is built.
//
// What lets a growing text be rendered piece by piece: blocks are decided line by line, so only the last line, which may
// be half a line, is uncertain, and it begins at most one new block. Everything before the last two blocks is final.

const MAX_DEPTH = 10;

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)(.*)$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|(\d{1,9})[.)])(?: +(.*)|)$/;
const DELIMITER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** Blocks of `text`: paragraph, heading, code, list, quote, table, rule; `start` is where each begins. */
export function parseBlocks(text) {
  const lines = text.split('\n');
  const starts = [];
  let offset = 0;
  for (const line of lines) {
    starts.push(offset);
    offset += line.length + 1;
  }
  const blocks = parseLines(lines.map(untab), 0);
  for (const block of blocks) block.start = starts[block.line];
  return blocks;
}

function untab(raw) {
  const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw;
  if (!/^ *\t/.test(line)) return line;
  const indent = /^[ \t]*/.exec(line)[0];
  return indent.replaceAll('\t', '    ') + line.slice(indent.length);
}

const isBlank = (line) => line.trim() === '';
const indentOf = (line) => line.length - line.trimStart().length;

function parseLines(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const [block, next] = (depth < MAX_DEPTH && special(lines, at, depth)) || paragraph(lines, at, depth);
    block.line = at;
    blocks.push(block);
    at = next;
  }
  return blocks;
}

function special(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence !== null) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading !== null) {
    const text = heading[2].trim().replace(/(?<!\S)#+$/, '').trimEnd();
    return [{ type: 'heading', level: heading[1].length, text }, at + 1];
  }
  if (RULE.test(line)) return [{ type: 'rule' }, at + 1];
  if (QUOTE.test(line)) return quote(lines, at, depth);
  if (ITEM.test(line)) return list(lines, at, depth);
  return isTable(lines, at) ? table(lines, at) : null;
}

/** Whether a paragraph ends before this line. An empty item does not end one, nor a list that begins at 2. */
function interrupts(lines, at) {
  const line = lines[at];
  if (FENCE.test(line) || RULE.test(line) || QUOTE.test(line) || HEADING.test(line)) return true;
  const item = ITEM.exec(line);
  return (item !== null && Boolean(item[4]) && (item[3] === undefined || item[3] === '1')) || isTable(lines, at);
}

function paragraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end]) && (depth >= MAX_DEPTH || !interrupts(lines, end))) end += 1;
  const text = lines.slice(at, end).map((line) => line.trimStart()).join('\n').trimEnd();
  return [{ type: 'paragraph', text }, end];
}

function code(lines, at, [, fence, info]) {
  const indent = indentOf(lines[at]);
  const closing = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}[ \\t]*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const body = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent, indentOf(line))));
  // What follows the last newline of the text is no line yet.
  if (end === lines.length && body.at(-1) === '') body.pop();
  const language = info.trim().split(/\s/)[0];
  return [{ type: 'code', language, text: body.join('\n') }, Math.min(end + 1, lines.length)];
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ''));
  return [{ type: 'quote', blocks: parseLines(inner, depth + 1) }, end];
}

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = first[3] !== undefined;
  const kind = first[2].at(-1);
  const block = { type: 'list', ordered, first: ordered ? Number(first[3]) : 1, tight: true, items: [] };
  const gathered = [];
  let width = 0; // where the text of the current item begins
  let nested = 0; // from which indent on a line belongs to it: models indent by two whatever the marker's width
  let blank = 0;
  let end = at;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    if (isBlank(line)) {
      blank += 1;
      continue;
    }
    const indent = indentOf(line);
    const item = ITEM.exec(line);
    if (gathered.length > 0 && indent >= nested) {
      for (; blank > 0; blank -= 1) gathered.at(-1).push('');
      gathered.at(-1).push(line.slice(Math.min(indent, width)));
    } else if (item !== null && item[2].at(-1) === kind && !RULE.test(line)) {
      if (blank > 0 && gathered.length > 0) block.tight = false;
      blank = 0;
      width = indent + item[2].length + 1;
      nested = indent + 2;
      gathered.push([item[4] ?? '']);
    } else if (blank > 0 || interrupts(lines, end)) break;
    else gathered.at(-1).push(line.trimStart());
  }
  block.items = gathered.map((inner) => listItem(inner, depth));
  // Blank lines after the list are no part of it.
  return [block, end - blank];
}

function listItem(lines, depth) {
  const task = /^\[([ xX])\] /.exec(lines[0]);
  if (task !== null) lines[0] = lines[0].slice(4);
  return { done: task === null ? null : task[1] !== ' ', blocks: parseLines(lines, depth + 1) };
}

function isTable(lines, at) {
  const next = lines[at + 1];
  return (
    next !== undefined && lines[at].includes('|') && next.includes('-') && next.includes('|') &&
    DELIMITER.test(next) && cells(lines[at]).length === cells(next).length
  );
}

function table(lines, at) {
  const align = cells(lines[at + 1]).map((cell) =>
    cell.endsWith(':') ? (cell.startsWith(':') ? 'center' : 'right') : cell.startsWith(':') ? 'left' : null,
  );
  let end = at + 2;
  const rows = [];
  for (; end < lines.length && !isBlank(lines[end]) && lines[end].includes('|'); end += 1) {
    const row = cells(lines[end]).slice(0, align.length);
    while (row.length < align.length) row.push('');
    rows.push(row);
  }
  return [{ type: 'table', align, head: cells(lines[at]), rows }, end];
}

function cells(line) {
  const row = line.trim().replace(/^\|/, '').replace(/(?<!\\)\|$/, '');
  return row.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll('\\|', '|'));
}
