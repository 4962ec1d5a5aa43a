// Serves the page, and hands everything under /api to the server that answers: so both are of one origin.

import { readFile } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import { pipeline } from 'node:stream';

const upstream = new URL(process.env.UNSPOOL_URL ?? 'http://127.0.0.1:8000');
const port = Number(process.env.PORT ?? 3000);
const files = { '/': ['index.html', 'text/html'], '/page.js': ['build/page.js', 'text/javascript'] };

const server = createServer(async (asked, answer) => {
  if (asked.url.startsWith('/api/')) return forward(asked, answer);
  const [file, type] = files[asked.url.split('?')[0]] ?? [];
  if (file === undefined) return answer.writeHead(404).end();
  answer.writeHead(200, { 'content-type': `${type}; charset=utf-8`, 'cache-control': 'no-cache' });
  answer.end(await readFile(new URL(file, import.meta.url)));
});

function forward(asked, answer) {
  const { method, url, headers } = asked;
  const onward = request(new URL(url, upstream), { method, headers: { ...headers, host: upstream.host } }, (said) => {
    answer.writeHead(said.statusCode, said.headers);
    // What breaks on one side is broken on the other: a stream that just ended would look like a whole answer.
    pipeline(said, answer, () => {});
  });
  onward.on('error', () => (answer.headersSent ? answer.destroy() : answer.writeHead(502).end()));
  answer.on('close', () => onward.destroy());
  asked.pipe(onward);
}

server.listen(port, '127.0.0.1', () => {
  console.log(`http://127.0.0.1:${server.address().port}/ asks ${upstream.href}`);
});
