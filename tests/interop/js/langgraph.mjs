// @langchain/langgraph-sdk through a network that cuts: one client starts a run, others join it from its beginning. Each
// goes on by itself where the SDK reconnects, and joins again where it gives up. Prints what each has put together.
import { Client } from "@langchain/langgraph-sdk";
import { AIMessageChunk, ToolMessage } from "@langchain/core/messages";

const [, , url, question, followers] = process.argv;
setTimeout(() => process.exit(3), 120_000).unref(); // whoever started this is gone
const streamMode = ["messages-tuple", "values"];
const threadId = crypto.randomUUID();

async function follow(begin, created = () => {}) {
  const client = new Client({ apiUrl: url, apiKey: null });
  const got = { text: "", reasoning: "", events: {}, ids: [], calls: [], results: [], gaveUp: 0 };
  const merged = new Map();
  let runId, ended = false, last;
  let stream = begin(client, (run) => created((runId = run.run_id)));
  while (!ended) {
    try {
      for await (const { id, event, data } of stream) {
        if (!event) continue;
        last = id;
        got.ids.push(Number(id));
        got.events[event] = (got.events[event] ?? 0) + 1;
        ended ||= event === "end" || event === "error";
        if (event === "metadata") runId = data.run_id;
        if (event === "values") got.values = data;
        if (event !== "messages") continue;
        const [message] = data;
        if (message.type === "tool") got.results.push(new ToolMessage(message).content);
        else {
          const chunk = new AIMessageChunk(message);
          merged.set(message.id, merged.get(message.id)?.concat(chunk) ?? chunk);
        }
      }
    } catch (error) {
      if (!runId) throw error;
      got.gaveUp += 1;
    }
    stream = client.runs.joinStream(threadId, runId, { lastEventId: last, streamMode });
  }
  for (const message of merged.values()) {
    got.text += message.content;
    got.reasoning += message.additional_kwargs.reasoning_content ?? "";
    got.calls.push(...message.tool_calls);
    got.usage = message.usage_metadata ?? got.usage;
  }
  return got;
}

let first;
const created = new Promise((resolve) => {
  first = follow(
    (client, onRunCreated) =>
      client.runs.stream(threadId, "agent", {
        input: { messages: [{ type: "human", content: question }] },
        streamMode,
        streamResumable: true,
        ifNotExists: "create",
        onRunCreated,
      }),
    resolve,
  );
  first.catch((error) => {
    console.error(error);
    process.exit(1);
  });
});
const runId = await created;
const joined = Array.from({ length: Number(followers) }, () =>
  follow((client) => client.runs.joinStream(threadId, runId, { lastEventId: "-1", streamMode })),
);
const all = await Promise.all([first, ...joined]);
const state = await new Client({ apiUrl: url, apiKey: null }).threads.getState(threadId);
console.log(JSON.stringify({ all, state, runId, threadId }));
