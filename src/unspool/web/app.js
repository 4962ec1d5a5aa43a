// Starts the page and connects it with the browser's events.

import { Api } from './api.js';
import { Chat } from './chat.js';
import { Page } from './page.js';
import { currentId, newConversationId } from './transcript.js';

const HIDDEN_FOR = 60_000;

const api = new Api();
const page = new Page({
  onSend: (text) => chat.submit(text),
  onStop: () => chat.stop(),
  onRetry: (id) => chat.retry(id),
  onNew: () => {
    location.hash = newConversationId();
  },
});
let chat = new Chat(api, page, currentId());

api.askForToken = async (refused) => {
  api.token = await page.askToken(refused);
};

async function open() {
  page.setRunning(false);
  // On a phone the keyboard would cover what was just opened.
  if (matchMedia('(pointer: fine)').matches) page.focus();
  await chat.open();
}

async function tellAbout() {
  try {
    const about = await api.about();
    page.setAbout(about);
    if (about.auth && !api.token) await api.login(false);
  } catch {
    // The chat's own requests say what is wrong, and go on trying.
  }
}

addEventListener('hashchange', () => {
  const id = currentId();
  if (id === chat.id) return;
  chat.close();
  page.showTurns([]);
  chat = new Chat(api, page, id);
  open();
});

addEventListener('storage', (event) => {
  if (event.key === chat.transcript.key) chat.changed();
});

addEventListener('online', () => chat.wake());
addEventListener('offline', () => chat.doubt());
addEventListener('pagehide', () => chat.keep());
addEventListener('pageshow', (event) => {
  if (event.persisted) chat.wake();
});

let hiddenTimer = 0;
document.addEventListener('visibilitychange', () => {
  clearTimeout(hiddenTimer);
  if (document.hidden) hiddenTimer = setTimeout(() => chat.rest(), HIDDEN_FOR);
  else chat.wake();
});

tellAbout();
open();
