// The conformance suite of Durable Streams, against the server at CONFORMANCE_URL.
import { runConformanceTests } from "@durable-streams/server-conformance-tests";

// The suite gives up on answers after 0.5 to 5 s, and leaves 0.5 s between its own waits and the end of a TTL of 2 s. It
// has no option for either, and a busy machine needs longer. CONFORMANCE_PATIENT=1 lets timers that give up fire later, and
// makes its waits of 1.5 s within a TTL shorter: two of them are still longer than the TTL. `make interop` runs it as it is.
const patient = process.env.CONFORMANCE_PATIENT === "1";
const HANG = 60_000;
const { setTimeout } = globalThis;
if (patient) {
  globalThis.setTimeout = (callback, delay, ...rest) => {
    const givesUp = /\.abort\(\)|reject\(/.test(String(callback));
    return setTimeout(callback, givesUp ? HANG : delay === 1500 ? 1200 : delay, ...rest);
  };
}

runConformanceTests({
  baseUrl: process.env.CONFORMANCE_URL,
  longPollTimeoutMs: patient ? HANG : 5000, // the bound of the tests that poll; the server answers after half a second
  subscriptions: process.env.CONFORMANCE_SUBSCRIPTIONS === "1",
});
