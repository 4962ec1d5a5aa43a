// The one way in which this page makes elements: text only ever becomes a text node, so nothing can become markup.

/**
 * An element with properties and children. `class`, `data-…`, `aria-…` and `role` are set as attributes, everything
 * else as a property.
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name === 'class' || name === 'role' || /^(data|aria)-/.test(name)) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

const SVG = 'http://www.w3.org/2000/svg';

const PATHS = {
  chevron: 'M6 9l6 6 6-6',
  copy: 'M9 9h11v11H9zM5 15H4V4h11v1',
  redo: 'M20 12a8 8 0 1 1-2.4-5.7M20 3v5h-5',
  resume: 'M4 12a8 8 0 1 0 2.4-5.7M4 3v5h5',
  tool: 'M14.5 6.5a4 4 0 0 0-5.3 5.3L4 17l3 3 5.2-5.2a4 4 0 0 0 5.3-5.3l-2.6 2.6-2.6-.4-.4-2.6z',
  thought: 'M12 3a6 6 0 0 0-3.5 10.9V17h7v-3.1A6 6 0 0 0 12 3zM9.5 20.5h5',
  alert: 'M12 8v5m0 3.2v.1M12 3.5 2.5 20h19z',
};

/** A line icon, invisible to a screen reader: what it says is in the text beside it. */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', `icon icon-${name}`);
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', PATHS[name]);
  svg.append(path);
  return svg;
}

/** Puts text into a node only if it is not there yet: an unchanged text keeps the reader's selection. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A button that copies what `text` returns, or null where the browser does not let a page do that. */
export function copyButton(label, text) {
  if (!navigator.clipboard) return null;
  const word = h('span', {}, 'Copy');
  const button = h('button', { type: 'button', class: 'quiet', 'aria-label': label }, icon('copy'), word);
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text());
      word.textContent = 'Copied';
    } catch {
      word.textContent = 'Not copied';
    }
    setTimeout(() => (word.textContent = 'Copy'), 1600);
  });
  return button;
}
