// `useStream` of @langchain/langgraph-sdk in a page that is reloaded in the middle of a run, and that stops the next one.
// Says on its output when it wants the run to go on; then what it has shown.
import { JSDOM } from "jsdom";

const [, , url, question] = process.argv;
const { window } = new JSDOM("<div id=root></div>", { url: "http://localhost/", pretendToBeVisual: true });
Object.assign(globalThis, { window, document: window.document, sessionStorage: window.sessionStorage });
Object.defineProperty(globalThis, "navigator", { value: window.navigator, configurable: true });
const { createElement } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useStream } = await import("@langchain/langgraph-sdk/react");

const say = (what) => console.log(JSON.stringify(what));
let threadId = null;
let page;

/** A page as a browser loads it: nothing of the one before is left but the session's storage and the thread's id. */
function load() {
  const connections = new AbortController();
  const seen = { errors: [], longest: 0 };
  const fetch = (input, init) =>
    globalThis.fetch(input, { ...init, signal: AbortSignal.any([connections.signal, init?.signal].filter(Boolean)) });

  function Chat() {
    const stream = useStream({
      apiUrl: url,
      assistantId: "agent",
      callerOptions: { fetch, maxRetries: 0 },
      threadId,
      onThreadId: (id) => {
        threadId = id;
        root.render(createElement(Chat, { key: "chat", threadId }));
      },
      reconnectOnMount: true,
      onError: (error) => seen.errors.push(String(error)),
    });
    seen.stream = stream;
    seen.messages = stream.messages;
    seen.loading = stream.isLoading;
    seen.calls = stream.toolCalls;
    return null;
  }
  const root = createRoot(window.document.getElementById("root"));
  root.render(createElement(Chat, { key: "chat", threadId }));
  seen.leave = () => {
    connections.abort();
    root.unmount();
  };
  return seen;
}

const text = () =>
  (page.messages ?? []).filter((m) => m.type === "ai").map((m) => (typeof m.content === "string" ? m.content : "")).join("");

async function until(condition) {
  for (let tries = 0; !condition(); tries += 1) {
    if (tries > 1500) throw new Error(`waited for ${condition}; ${JSON.stringify(page.messages)} ${page.errors}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

// The first page asks, and is reloaded while the answer comes.
page = load();
await until(() => page.stream && !page.loading);
page.stream.submit({ messages: [{ type: "human", content: question }] });
await until(() => text().length > 150);
const before = text();
page.leave();
const stored = window.sessionStorage.getItem(`lg:stream:${threadId}`);

// The second one joins by itself.
page = load();
await until(() => page.loading && text().length >= before.length);
const joined = text();
say({ goOn: true });
await until(() => !page.loading);
const whole = text();
const shown = page.messages.map(({ type }) => type);
const calls = page.calls.map(({ call, result, state }) => ({ name: call.name, args: call.args, state, result: result?.content }));

say({ stored, before, joined, whole, shown, calls });

// It asks again, and stops that in the middle.
await new Promise((resolve) => process.stdin.once("data", resolve));
page.stream.submit({ messages: [{ type: "human", content: "again" }] });
await until(() => page.loading && text().length > whole.length + 50);
const running = window.sessionStorage.getItem(`lg:stream:${threadId}`);
await page.stream.stop();
await until(() => !page.loading);
const stopped = text();
const { errors } = page;
page.leave();
say({ threadId, running, stopped: stopped.slice(whole.length), errors });
process.exit(0);
