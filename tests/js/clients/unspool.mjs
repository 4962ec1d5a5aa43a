// Our client under Node: `node unspool.mjs url stream` prints what it was given, as JSON.

import { Client } from 'unspool-client';

const [url, streamId] = process.argv.slice(2);
const got = [];
for await (const { generation, offset, type, data } of new Client(url).follow(streamId))
  got.push([`${generation}-${offset}`, type, data]);
process.stdout.write(JSON.stringify(got));
