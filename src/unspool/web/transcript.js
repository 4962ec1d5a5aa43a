// The conversations of this browser, in localStorage: past turns. What is running belongs to the server and is fetched.
//
// A turn: {id, text, request, answer}. The user's message has the turn's id; `request` is the id under which it was sent;
// `answer`: {generation, status, parts, usage, offset, note, error}, null until the server has said that it began.
// All tabs write turns whole, after reading anew, so that each tab's turn survives the others'.

import { newId } from './client/index.js';

const PREFIX = 'unspool.chat.';
const CURRENT = 'unspool.current';

export class Transcript {
  constructor(id, storage = globalThis.localStorage) {
    this.id = id;
    this.storage = storage;
    this.key = PREFIX + id;
    this.turns = this.read();
  }

  read() {
    try {
      const stored = JSON.parse(this.storage.getItem(this.key) ?? '[]');
      return Array.isArray(stored) ? stored.filter((turn) => typeof turn?.id === 'string') : [];
    } catch {
      // Not ours, or broken: an empty chat is better than a page that does not open.
      return [];
    }
  }

  /** Takes in what other tabs wrote. */
  refresh() {
    this.turns = this.read();
  }

  get last() {
    return this.turns.at(-1) ?? null;
  }

  find(id) {
    return this.turns.find((turn) => turn.id === id) ?? null;
  }

  /**
   * The turn that a generation answers: by its message's id; else, where the application gave the message an id of its
   * own or named none, the last one that is of this generation, or of none yet, and says the same.
   */
  match(generation, id, text) {
    return (
      this.find(id) ??
      this.turns.findLast(
        (turn) => (turn.answer?.generation ?? generation) === generation && (text === '' || turn.text === text),
      ) ??
      null
    );
  }

  /** Puts a turn in the place of the one with its id, or at the end. */
  put(turn) {
    this.refresh();
    const index = this.turns.findIndex(({ id }) => id === turn.id);
    if (index < 0) this.turns.push(turn);
    else this.turns[index] = turn;
    this.save();
    return turn;
  }

  save() {
    const text = JSON.stringify(this.turns);
    for (;;) {
      try {
        this.storage.setItem(this.key, text);
        return;
      } catch {
        // Full: the oldest other conversation makes room. If there is none left, this one lives in memory only.
        const other = Object.keys(this.storage).find((key) => key.startsWith(PREFIX) && key !== this.key);
        if (other === undefined) return;
        this.storage.removeItem(other);
      }
    }
  }

  /** What the model is asked with: all turns up to and including the one with this id. */
  messages(upTo) {
    const messages = [];
    for (const turn of this.turns) {
      // What never reached the server is not part of the conversation.
      if (turn.id !== upTo && !turn.answer?.generation) continue;
      if (turn.text) messages.push({ role: 'user', content: turn.text });
      if (turn.id === upTo) break;
      const answer = textOf(turn.answer?.parts);
      if (answer) messages.push({ role: 'assistant', content: answer });
    }
    return messages;
  }
}

export const textOf = (parts) => (parts ?? []).map((part) => (part.type === 'text' ? part.text : '')).join('');

const ID = /^[A-Za-z0-9_.-]{1,128}$/;

/** The conversation that the address names, else the last one, else a new one; the address names it from then on. */
export function currentId() {
  const named = location.hash.slice(1);
  const id = ID.test(named) ? named : (localStorage.getItem(CURRENT) ?? newConversationId());
  localStorage.setItem(CURRENT, id);
  if (named !== id) history.replaceState(null, '', `#${id}`);
  return id;
}

const minted = new Set();

/** An id for a new conversation. */
export function newConversationId() {
  const id = `chat-${newId().replaceAll('-', '').slice(0, 16)}`;
  minted.add(id);
  return id;
}

/** Whether this page has just made up the id: then the server cannot know it, and need not be asked. */
export const isNew = (id) => minted.delete(id);
