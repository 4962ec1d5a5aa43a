// A page with the AI SDK's useChat, as the tests in a browser load it. It keeps the user's messages itself, resumes after
// a reload, asks again wherever it was cut off, and has a Stop button.

import { useChat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';
import { useEffect, useRef, useState } from 'react';
import { createRoot } from 'react-dom/client';

const id = location.hash.slice(1);
const kept = JSON.parse(localStorage.getItem(id) ?? '[]');
const transport = new DefaultChatTransport({ api: '/api/chat' });
const textOf = ({ parts }, type) => parts.map((part) => (part.type === type ? part.text : '')).join('');

function Page() {
  const [reason, setReason] = useState('');
  const onFinish = ({ finishReason }) => finishReason && setReason(finishReason);
  const chat = useChat({ id, messages: kept, resume: kept.length > 0, transport, onFinish });
  const { messages, status, sendMessage } = chat;
  const answer = messages.at(-1)?.role === 'assistant' ? messages.at(-1) : undefined;
  const latest = useRef();
  latest.current = { ...chat, reason };

  useEffect(() => {
    const again = setInterval(() => {
      const { messages, reason, status, resumeStream } = latest.current;
      if (messages.length > 0 && reason === '' && (status === 'error' || status === 'ready')) void resumeStream();
    }, 50);
    return () => clearInterval(again);
  }, []);

  useEffect(() => {
    const users = messages.filter(({ role }) => role === 'user');
    if (users.length > 0) localStorage.setItem(id, JSON.stringify(users));
  }, [messages]);

  const stop = () =>
    fetch(`/api/chat/${encodeURIComponent(id)}/stop`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ activeStreamId: answer?.metadata?.runId }),
    });

  return (
    <main data-status={status} data-ended={answer?.metadata?.ended} data-count={messages.length}>
      <button id="send" onClick={() => sendMessage({ text: 'What does the river say?' })}>Send</button>
      <button id="stop" onClick={stop}>Stop</button>
      <pre id="thought">{answer && textOf(answer, 'reasoning')}</pre>
      <pre id="text">{answer && textOf(answer, 'text')}</pre>
    </main>
  );
}

createRoot(document.querySelector('#root')).render(<Page />);
