// A parser for event streams by the WHATWG rules: pure, fed with bytes that may be cut anywhere.

export class SseParser {
  /**
   * @param {(event: {type: string, data: string, id: string}) => void} onEvent called for each complete event
   * @param {(milliseconds: number) => void} [onRetry] called when the server sets the reconnection time
   */
  constructor(onEvent, onRetry = () => {}) {
    this.onEvent = onEvent;
    this.onRetry = onRetry;
    this.lastId = '';
    // It drops one byte order mark at the start, and holds back a character that is cut in two.
    this.decoder = new TextDecoder('utf-8');
    this.line = '';
    this.afterCr = false;
    this.clear();
  }

  clear() {
    this.type = '';
    this.data = [];
  }

  /** Takes some bytes in. An event is complete at its blank line: what is unfinished at the end is thrown away. */
  feed(bytes) {
    const text = this.decoder.decode(bytes, { stream: true });
    let start = 0;
    for (let at = 0; at < text.length; at += 1) {
      const code = text.charCodeAt(at);
      const lf = code === 10;
      if (lf && this.afterCr) {
        // The second half of a CRLF: the line ended at its CR, which may have come in an earlier chunk.
        start = at + 1;
      } else if (lf || code === 13) {
        this.take(this.line + text.slice(start, at));
        this.line = '';
        start = at + 1;
      }
      this.afterCr = code === 13;
    }
    this.line += text.slice(start);
  }

  take(line) {
    if (line === '') {
      this.dispatch();
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? '' : line.slice(colon + 1);
    if (value.startsWith(' ')) value = value.slice(1);
    if (field === 'data') this.data.push(value);
    else if (field === 'event') this.type = value;
    else if (field === 'id') {
      if (!value.includes('\0')) this.lastId = value;
    } else if (field === 'retry' && /^[0-9]+$/.test(value)) this.onRetry(Number(value));
  }

  dispatch() {
    const { type, data } = this;
    this.clear();
    if (data.length > 0) this.onEvent({ type: type || 'message', data: data.join('\n'), id: this.lastId });
  }
}
