// Starts the page and connects it with the browser's events.

import { Chat } from './chat.js';
import { Client } from './client/index.js';
import { Page } from './page.js';
import { Token } from './token.js';
import { currentId, newConversationId } from './transcript.js';

const token = new Token();
const client = new Client(location.origin, { fetch: token.fetch });
const page = new Page({
  onSend: (text) => chat.submit(text),
  onStop: () => chat.stop(),
  onRetry: (id) => chat.retry(id),
  onNew: () => {
    location.hash = newConversationId();
  },
});
let chat = new Chat(client, page, currentId());

token.ask = (refused) => page.askToken(refused);

async function open() {
  page.setRunning(false);
  // On a phone the keyboard would cover what was just opened.
  if (matchMedia('(pointer: fine)').matches) page.focus();
  await chat.open();
}

async function tellAbout() {
  try {
    const about = await (await fetch('/about', { cache: 'no-store' })).json();
    page.setAbout(about);
    if (about.auth && !token.value) await token.renew();
  } catch {
    // The chat's own requests say what is wrong, and go on trying.
  }
}

addEventListener('hashchange', () => {
  const id = currentId();
  if (id === chat.id) return;
  chat.close();
  page.showTurns([]);
  chat = new Chat(client, page, id);
  open();
});

addEventListener('storage', (event) => {
  if (event.key === chat.transcript.key) chat.changed();
});

addEventListener('online', () => chat.wake());
addEventListener('pagehide', () => chat.keep());
addEventListener('pageshow', (event) => {
  if (event.persisted) chat.wake();
});
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) chat.wake();
});

tellAbout();
open();
