// A chat that goes on where it was after a reload. The address names it, and the browser keeps its finished turns.

import { useChat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';
import { useEffect, useRef, useState } from 'react';
import { createRoot } from 'react-dom/client';

if (location.hash.length < 2) history.replaceState(null, '', `#${crypto.randomUUID()}`);
const id = location.hash.slice(1);
const kept = JSON.parse(localStorage.getItem(`chat.${id}`) ?? '[]');
const transport = new DefaultChatTransport({ api: '/api/chat' });

function Chat() {
  // What an answer ended with. Without it the connection was lost: the answer goes on, and so does this page.
  const [ended, setEnded] = useState(true);
  const lost = useRef(false);
  const { messages, sendMessage, resumeStream, status, error } = useChat({
    id,
    messages: kept,
    resume: kept.length > 0,
    transport,
    onFinish: ({ finishReason, isError }) => {
      lost.current = finishReason === undefined && isError;
      setEnded(finishReason !== undefined);
    },
  });
  const busy = status === 'submitted' || status === 'streaming';
  const last = messages.at(-1);

  useEffect(() => {
    if (messages.length > 0) localStorage.setItem(`chat.${id}`, JSON.stringify(messages));
  }, [messages]);

  useEffect(() => {
    if (status !== 'error' || !lost.current) return;
    const again = setTimeout(resumeStream, 1000);
    return () => clearTimeout(again);
  }, [status, error, resumeStream]);

  // `stop()` of the hook only hangs up. This ends the run, wherever it runs, and the stream then says so.
  const stop = () =>
    fetch(`/api/chat/${encodeURIComponent(id)}/stop`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ activeStreamId: last?.metadata?.runId }),
    });

  const send = (event) => {
    event.preventDefault();
    const field = event.currentTarget.elements.text;
    const text = field.value.trim();
    if (text === '' || busy) return;
    field.value = '';
    sendMessage({ text });
  };

  return (
    <main>
      <h1>
        unspool and the AI SDK
        <button className="quiet" onClick={() => location.assign('/')}>New chat</button>
      </h1>
      <ol>{messages.map((message) => <Message key={message.id} {...message} />)}</ol>
      <small data-status={status}>
        {busy ? 'Answering. Reload the page: it goes on.' : ended ? '' : 'The connection was lost: coming back.'}
        {error && !lost.current && <span className="error">{error.message}</span>}
      </small>
      <form onSubmit={send}>
        <input name="text" aria-label="Message" placeholder="Ask something" autoComplete="off" autoFocus />
        {busy ? <button type="button" className="stop" onClick={stop}>Stop</button> : <button>Send</button>}
      </form>
    </main>
  );
}

function Message({ role, parts, metadata }) {
  const usage = metadata?.usage;
  return (
    <li className={role}>
      {parts.map((part, index) => <Part key={index} {...part} />)}
      {usage && <div><small>{usage.inputTokens} tokens in, {usage.outputTokens} out</small></div>}
    </li>
  );
}

function Part({ type, text, state, url, title, ...part }) {
  if (type === 'text') return text;
  if (type === 'reasoning') return <details><summary>Thoughts</summary><small>{text}</small></details>;
  if (type === 'source-url') return <div><a href={url} rel="noopener noreferrer">{title ?? url}</a></div>;
  if (type.startsWith('tool-')) {
    return <div><small>{type.slice(5)} {JSON.stringify(part.input)}: {part.errorText ?? JSON.stringify(part.output) ?? state}</small></div>;
  }
  return null;
}

createRoot(document.querySelector('#root')).render(<Chat />);
