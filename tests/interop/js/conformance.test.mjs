// The conformance suite of Durable Streams, against the server at CONFORMANCE_URL.
import { runConformanceTests } from "@durable-streams/server-conformance-tests";

runConformanceTests({
  baseUrl: process.env.CONFORMANCE_URL,
  longPollTimeoutMs: 5000,
  subscriptions: process.env.CONFORMANCE_SUBSCRIPTIONS === "1",
});
