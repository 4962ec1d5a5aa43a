// What can go wrong, as one error: the server's problem document, or the lack of an answer.

const LONGEST_RETRY_AFTER = 60_000;

/**
 * A refusal by the server, or no answer that makes sense. `code` is stable: the server's own (`not_found`,
 * `generation_conflict` …), `unreachable` for no answer (`status` 0), `unexpected_answer` for one that is not of unspool.
 */
export class UnspoolError extends Error {
  constructor(message, { code, status = 0, title = '', problem = {}, retryAfter = 0, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'UnspoolError';
    this.code = code;
    this.status = status;
    this.title = title || message;
    /** The whole problem document: some carry more, such as the stream's current `generation`. */
    this.problem = problem;
    /** Milliseconds that the server asked to wait; 0 if it did not. */
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may do better a little later. */
  get retryable() {
    if (this.code === 'unexpected_answer' && this.status < 400) return false;
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

export const unreachable = (message, cause) => new UnspoolError(message, { code: 'unreachable', cause });

/**
 * An answer that was cut. Over plain HTTP, Chromium takes a head that was cut for a whole one: then status, type and
 * length may be missing or cut as well, and the body is empty.
 */
export const cutOff = (cause) => unreachable('The answer of the server was cut off.', cause);

export const unexpected = (message, status, cause) =>
  new UnspoolError(message, { code: 'unexpected_answer', status, cause });

/** The error that a response with a status of 400 or more means. */
export async function errorOf(response) {
  const { status } = response;
  const retryAfter = retryAfterOf(response.headers.get('retry-after'));
  const problem = await problemOf(response);
  // A proxy's own error page: its status is all there is to say.
  if (problem === null)
    return new UnspoolError(`The server answered ${status}.`, { code: 'unexpected_answer', status, retryAfter });
  const { code, title = '', detail } = problem;
  return new UnspoolError(detail || title || `The server answered ${status}.`, { code, status, title, problem, retryAfter });
}

async function problemOf(response) {
  try {
    const problem = JSON.parse(await response.text());
    return typeof problem?.code === 'string' ? problem : null;
  } catch {
    return null;
  }
}

/** Milliseconds of a Retry-After header: seconds or a date. A longer wait than a minute is not obeyed. */
export function retryAfterOf(value, now = Date.now()) {
  if (!value) return 0;
  const wait = /^\d+$/.test(value.trim()) ? Number(value) * 1000 : Date.parse(value) - now;
  return Number.isNaN(wait) ? 0 : Math.min(Math.max(wait, 0), LONGEST_RETRY_AFTER);
}
