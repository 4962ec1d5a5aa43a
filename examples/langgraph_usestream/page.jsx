import { useState } from 'react';
import { createRoot } from 'react-dom/client';
import { useStream } from '@langchain/langgraph-sdk/react';

const search = () => new URLSearchParams(window.location.search);

function Message({ message }) {
  const reasoning = message.additional_kwargs?.reasoning_content;
  const content = typeof message.content === 'string' ? message.content : JSON.stringify(message.content);
  return (
    <div className={message.type}>
      {reasoning && <div className="reasoning">{reasoning}</div>}
      {message.tool_calls?.map((call) => (
        <div key={call.id}>
          {call.name}({JSON.stringify(call.args)})
        </div>
      ))}
      {content}
    </div>
  );
}

function Chat() {
  const [threadId, setThreadId] = useState(search().get('thread'));
  const [text, setText] = useState('');

  // The thread's id is in the address, so that a reload, or another tab, finds the conversation.
  function choose(id) {
    window.history.replaceState(null, '', id ? `?thread=${id}` : window.location.pathname);
    setThreadId(id);
  }

  const stream = useStream({
    apiUrl: `${window.location.origin}/langgraph`,
    assistantId: 'agent',
    threadId,
    onThreadId: choose,
    reconnectOnMount: true,
    onError: (error) => String(error).includes('HTTP 404') && choose(null), // kept no longer
  });

  function send(event) {
    event.preventDefault();
    if (!text) return;
    const asked = { type: 'human', content: text };
    stream.submit(
      { messages: [asked] },
      { optimisticValues: (before) => ({ ...before, messages: [...(before.messages ?? []), asked] }) },
    );
    setText('');
  }

  return (
    <>
      <div id="messages" aria-live="polite">
        {stream.messages.map((message, index) => (
          <Message key={message.id ?? index} message={message} />
        ))}
      </div>
      {stream.error != null && <p role="alert">{String(stream.error)}</p>}
      <form onSubmit={send}>
        <input
          aria-label="Message"
          placeholder="Ask something, then reload in the middle of the answer"
          value={text}
          onChange={(event) => setText(event.target.value)}
          autoFocus
        />
        <button>Send</button>
        <button type="button" disabled={!stream.isLoading} onClick={() => stream.stop()}>
          Stop
        </button>
      </form>
    </>
  );
}

createRoot(document.getElementById('root')).render(<Chat />);
