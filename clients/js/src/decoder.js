// A decoder of event streams by the WHATWG rules: pure, fed with bytes that may be cut anywhere.

/** One per connection: a block that the end of the stream leaves incomplete is never dispatched. */
export class Decoder {
  #decoder = new TextDecoder('utf-8'); // drops one byte order mark, holds back a character that is cut in two
  #line = '';
  #afterCr = false;
  #type = '';
  #data = [];
  #id = '';

  /** The id of the last complete block. */
  lastEventId = '';
  /** Milliseconds after which the server wants to see a client again; null: it has not said. */
  retry = null;

  /** The messages `{type, data, id}` that these bytes complete. */
  feed(bytes) {
    const messages = [];
    const text = this.#decoder.decode(bytes, { stream: true });
    let start = 0;
    for (let at = 0; at < text.length; at += 1) {
      const code = text.charCodeAt(at);
      const lf = code === 10;
      if (lf && this.#afterCr) {
        // The second half of a CRLF: the line ended at its CR, which may have come in an earlier chunk.
        start = at + 1;
      } else if (lf || code === 13) {
        this.#take(this.#line + text.slice(start, at), messages);
        this.#line = '';
        start = at + 1;
      }
      this.#afterCr = code === 13;
    }
    this.#line += text.slice(start);
    return messages;
  }

  #take(line, messages) {
    if (line === '') {
      this.#dispatch(messages);
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? '' : line.slice(colon + 1);
    if (value.startsWith(' ')) value = value.slice(1);
    if (field === 'data') this.#data.push(value);
    else if (field === 'event') this.#type = value;
    else if (field === 'id') {
      if (!value.includes('\0')) this.#id = value;
    } else if (field === 'retry' && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  #dispatch(messages) {
    this.lastEventId = this.#id;
    if (this.#data.length > 0)
      messages.push({ type: this.#type || 'message', data: this.#data.join('\n'), id: this.#id });
    this.#type = '';
    this.#data = [];
  }
}
