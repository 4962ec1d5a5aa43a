// @durable-streams/client: `node durable.mjs address sse|long-poll` follows a JSON stream to its last message, which has
// `last`, and prints the offsets that it began at and the messages. In SSE mode a cut ends the response with an error, and
// whoever uses the client begins again at the offset of the last batch; in long-poll mode the client does so by itself.
// What says that the end is there is the batch: `res.closed` may resolve before the last batch is delivered.

import { stream } from '@durable-streams/client';

const [url, live] = process.argv.slice(2);
const backoffOptions = { initialDelay: 5, maxDelay: 20, multiplier: 1.2 };
const sseResilience = { minConnectionDuration: 0, maxShortConnections: 1e9, backoffBaseDelay: 1, backoffMaxDelay: 5, logWarnings: false };
const got = [];
const begun = [];
let offset = '-1';
let closed = false;
while (!closed) {
  begun.push(offset);
  try {
    const res = await stream({ url, offset, live, json: true, backoffOptions, sseResilience });
    await new Promise((resolve, reject) => {
      res.subscribeJson((batch) => {
        got.push(...batch.items);
        offset = batch.offset;
        if (!batch.items.some((item) => item.last)) return;
        closed = true;
        resolve();
      });
      res.closed.catch(reject);
    });
    res.cancel();
  } catch (error) {
    if (!/terminated|fetch failed|socket|ECONN|network|aborted/i.test(`${error} ${error.cause ?? ''}`)) throw error;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
process.stdout.write(JSON.stringify({ begun, got }));
process.exit(0);
