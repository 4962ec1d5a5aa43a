/** Start, follow and stop LLM generations that outlive the connection. */

/** JSON of the server or of the application, whose shape only they know. */
export type Json = { [name: string]: unknown };

export type Status = "running" | "requires_action" | "complete" | "error" | "aborted" | "replaced";

/** One event of a generation's log. Offsets rise; `sync` carries the content so far in the place of what it covers. */
export interface Record<Data = Json> {
  readonly offset: number;
  readonly generation: number;
  readonly type: string;
  readonly data: Data;
}

/** One message of the conversation, in the shape of OpenAI's chat API. */
export interface Message {
  role: "system" | "developer" | "user" | "assistant" | "tool";
  content?: string | Json[] | null;
  name?: string | null;
  tool_calls?: Json[] | null;
  tool_call_id?: string | null;
}

/** What a call is doing; `until` is when the next attempt is due (ms since the epoch), `error` why it is needed. */
export type State =
  | { readonly name: "connecting" }
  | { readonly name: "live" }
  | { readonly name: "waiting" | "offline"; readonly until: number; readonly error: UnspoolError }
  | { readonly name: "resting" };

/** What every call takes. */
export interface CallOptions {
  /** Ends the call: `follow` ends quietly, the others reject with the signal's reason. */
  signal?: AbortSignal;
  onState?: (state: State) => void;
  /** How many attempts in a row may fail before the last error is thrown. */
  attempts?: number;
}

export interface ClientOptions {
  /** Sent with every request; a function is asked before each, for tokens that change. What it throws ends the call. */
  headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
  /** Used instead of the global one. */
  fetch?: (address: string, options: RequestInit) => Promise<Response>;
  /** Of every call but `follow`, which has its own; 6. */
  attempts?: number;
  /** Milliseconds without a byte after which a connection is given up; 40,000. The server breaks every silence of 15 s. */
  silence?: number;
}

export interface StartOptions extends CallOptions {
  messages: Message[];
  model?: string;
  /** The same id attaches to the same generation; minted where none is given. */
  requestId?: string;
  /** Refuse (`generation_conflict`) unless this is the stream's last generation; 0: there is none yet. */
  expectGeneration?: number;
  /** What the application keeps with the turn. */
  metadata?: Json;
}

export interface FollowOptions extends CallOptions {
  /** An older generation instead of the stream's last. */
  generation?: number;
  /** The offset after which to begin; needs `generation`, without which an offset means nothing. */
  after?: number;
  /** Begin with one `sync` record, the content so far, instead of the first record. */
  snapshot?: boolean;
  /** Without a limit by default. */
  attempts?: number;
  /** In a browser: let the connection go when the tab was hidden for so many ms, and go on when it is looked at. */
  restAfter?: number;
}

export interface Started {
  stream_id: string;
  generation: number;
  status: Status;
  events_url: string;
  /** It had been started before under this request id. */
  attached: boolean;
}

export interface Summary {
  stream_id: string;
  generation: number;
  status: Status;
  active: boolean;
  /** Seconds since the epoch. */
  created_at: number;
  /** Seconds. */
  elapsed: number;
  last_offset: number;
  user: string | null;
  metadata: Json;
}

/** The content of a generation up to `offset`. */
export interface ResumeState {
  generation: number;
  offset: number;
  status: Status;
  content: Part[];
  text: string;
  steps: Json[];
  usage: Json[];
  prompts: Json[];
  approvals: Json[];
  steering: Json[];
  title: string | null;
  user_message: Json | null;
  response_id: string | null;
  conversation_id: string | null;
  sender: string | null;
}

export interface StreamState extends Summary, ResumeState {
  generation: number;
  status: Status;
  first_offset: number;
}

export interface Outcome {
  outcome: "stopped" | "already_settled" | "save_failed";
  stream_id: string;
  generation: number;
  status: Status;
  content: Part[];
  text: string;
  usage: Json[];
  final: ({ type: string } & Json) | null;
}

/** A part of a message. Which fields it has depends on its type; all may carry `step`, `agent` and `group`. */
export type Part =
  | ({ type: "text" | "reasoning"; part_id: string | null; text: string } & Json)
  | ({
      type: "tool";
      call_id: string;
      name: string | null;
      arguments: string;
      status: "running" | "done" | "error";
      output?: unknown;
      error?: string;
    } & Json)
  | ({ type: "user"; id: string; text: string } & Json)
  | ({ type: "agent"; message: string | null } & Json)
  | ({ type: "error"; code: string | null; message: string | null } & Json)
  | ({ type: "file" | "source" } & Json);

export class Client {
  /** `url`: where the server is, path prefix included; in a browser the page's own origin by default. */
  constructor(url?: string | URL, options?: ClientOptions);
  /** Starts a generation and returns at once. It starts once, however often it has to be sent. */
  start(streamId: string, options: StartOptions): Promise<Started>;
  /** The records, each once and in order, whatever happens to the connection; ends after the terminal one. */
  follow(streamId: string, options?: FollowOptions): AsyncGenerator<Record, void, undefined>;
  /** Stops a generation, the stream's last by default; answers when it has stopped, with its whole content. */
  stop(streamId: string, options?: CallOptions & { generation?: number; reason?: string }): Promise<Outcome>;
  /** Status and content so far. */
  status(streamId: string, options?: CallOptions & { generation?: number }): Promise<StreamState>;
  /** The caller's own generations, newest first. */
  list(options?: CallOptions & { status?: Status; limit?: number }): Promise<Summary[]>;
}

/** A refusal by the server, or no answer that makes sense. */
export class UnspoolError extends Error {
  /** Stable: the server's own (`not_found` …), or `unreachable`, or `unexpected_answer`. */
  readonly code: string;
  /** The HTTP status; 0: there was no answer. */
  readonly status: number;
  readonly title: string;
  /** The whole problem document. */
  readonly problem: Json;
  /** Milliseconds that the server asked to wait. */
  readonly retryAfter: number;
  /** Whether the same request may do better a little later. */
  readonly retryable: boolean;
}

/** Folds records in order into message parts, by the law that the server uses for its own snapshots. */
export class Fold {
  /** The last record that was taken in. */
  readonly offset: number;
  readonly parts: Part[];
  /** All text parts, joined. */
  readonly text: string;
  readonly steps: Json[];
  readonly usage: Json[];
  readonly prompts: Json[];
  readonly approvals: Json[];
  readonly steering: Json[];
  readonly title: string | null;
  /** Counts up at every change. */
  readonly version: number;
  /** Takes one record in; one that is known already is ignored. */
  apply(record: Pick<Record, "type" | "offset" | "data">): void;
  /** Begins anew with a content that is known: a `sync` record's data, or the answer of `status`. */
  restore(state: Pick<ResumeState, "offset" | "content"> & Partial<ResumeState>): void;
}

/** A decoder of server-sent events, fed with bytes that may be cut anywhere. One per connection. */
export class Decoder {
  readonly lastEventId: string;
  readonly retry: number | null;
  feed(bytes: Uint8Array): { type: string; data: string; id: string }[];
}

/** The types of the records after which nothing comes. */
export const TERMINAL: ReadonlySet<string>;

/** A random id, for requests and messages. */
export function newId(): string;
