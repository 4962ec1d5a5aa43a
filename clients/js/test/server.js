// A server under the tests: one function answers each request. Real sockets, so that what ends is what really ends.

import { once } from 'node:events';
import { createServer } from 'node:http';

/**
 * Serves until the test is over. `answers`: one function per request in turn, the last for all that come later; each
 * gets (request, response, body). Gives `url` and the `requests` so far, `{method, url, headers, body}`.
 */
export async function serve(t, ...answers) {
  const requests = [];
  const server = createServer(async (request, response) => {
    let text = '';
    for await (const chunk of request) text += chunk;
    const { method, url, headers } = request;
    const answer = answers[Math.min(requests.length, answers.length - 1)];
    requests.push({ method, url, headers, body: text && JSON.parse(text) });
    answer(request, response, text);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, requests };
}

export const frame = (offset, { type = 'text.delta', data = { text: String(offset) }, generation = 1 } = {}) =>
  `event: ${type}\ndata: ${JSON.stringify(data)}\nid: ${generation}-${offset}\n\n`;

export const last = (offset, generation) => frame(offset, { type: 'completed', data: {}, generation });

const headers = { 'content-type': 'text/event-stream; charset=utf-8' };

/** These frames, then a clean end. */
export const stream = (...frames) => (_, response) => {
  response.writeHead(200, headers);
  response.end(frames.join(''));
};

/** These frames, then the connection is cut. */
export const cut = (...frames) => (request, response) => {
  response.writeHead(200, headers);
  response.write(frames.join(''), () => setImmediate(() => request.socket.destroy()));
};

/** These frames, then silence. */
export const stall = (...frames) => (_, response) => {
  response.writeHead(200, headers);
  response.write(`: ka\n${frames.join('')}`);
};

/** Nothing at all. */
export const silent = () => {};

export const refuse = (status, problem, more = {}) => (_, response) => {
  response.writeHead(status, { 'content-type': 'application/problem+json', ...more });
  response.end(typeof problem === 'string' ? problem : JSON.stringify({ title: 'A title.', status, ...problem }));
};

export const json = (body, status = 200) => (_, response) => {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
};

export const end = (_, response) => {
  response.writeHead(204);
  response.end();
};

export async function collect(records) {
  const all = [];
  for await (const record of records) all.push(record);
  return all;
}
