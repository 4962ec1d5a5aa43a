// Bundles the page, serves it, and passes /copilotkit on to unspool: `UNSPOOL_URL=… PORT=… node serve.mjs`.

import { createServer, request } from 'node:http';
import { readFile } from 'node:fs/promises';
import { pipeline } from 'node:stream';
import { build } from 'esbuild';

const unspool = new URL(process.env.UNSPOOL_URL ?? 'http://127.0.0.1:8000');
const here = (name) => new URL(name, import.meta.url).pathname;
const bundle = await build({
  entryPoints: [here('page.js')],
  bundle: true,
  format: 'esm',
  write: false,
  define: { 'process.env.NODE_ENV': '"production"' },
});

function pass(incoming, answer) {
  const { method, url, headers } = incoming;
  const options = { method, path: url, headers: { ...headers, host: unspool.host } };
  const outgoing = request(unspool, options, (found) => {
    answer.writeHead(found.statusCode, found.headers);
    pipeline(found, answer, () => {}); // what was cut off there is cut off here: no clean end
  });
  outgoing.on('error', () => answer.destroy());
  answer.on('close', () => outgoing.destroy());
  incoming.pipe(outgoing);
}

const server = createServer(async (incoming, answer) => {
  if (incoming.url.startsWith('/copilotkit')) return pass(incoming, answer);
  const page = incoming.url === '/page.js';
  answer.setHeader('content-type', page ? 'text/javascript; charset=utf-8' : 'text/html; charset=utf-8');
  answer.end(page ? bundle.outputFiles[0].contents : await readFile(here('index.html')));
});
server.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', () => {
  console.log(`http://127.0.0.1:${server.address().port}/`);
});
