"""LibreChat's frames: a client that joins anywhere, with a sync, has in the end what one has that saw it all. And its
routes: positions, starts that are sent twice, Stop, and whose a stream is."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from uuid import UUID

import httpx2
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from tests.conftest import Serving
from tests.interop.dialects.test_librechat import BASE, Reader
from unspool import Generation, GenerationManager, Options
from unspool.events import Record, encode_data
from unspool.http import StartRequest, create_app
from unspool.http.dialects.librechat.projection import LibreChat
from unspool.sse import Decoder, Message

_ids = st.sampled_from("ab")
_agents = st.sampled_from([{}, {"agent": "one"}, {"agent": "two"}])
_text = st.text(max_size=5)
_created = {"user_message": {"id": "u", "text": "?"}, "response_id": "r", "sender": "S"}


def _event(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(
        st.just(kind), st.builds(lambda data, marks: {**data, **marks}, st.fixed_dictionaries(fields), _agents)
    )


_events = st.lists(
    st.one_of(
        _event("text.delta", part_id=_ids, text=_text),
        _event("reasoning.delta", part_id=_ids, text=_text),
        _event("tool.call", call_id=_ids, name=_ids),
        _event("tool.call", call_id=_ids, name=_ids, arguments=st.just({"a": 1})),
        _event("tool.args.delta", call_id=_ids, text=_text),
        _event("tool.result", call_id=_ids, output=_text),
        _event("tool.error", call_id=_ids, message=_text),
        _event("tool.auth", call_id=_ids, url=_text),
        _event("source", url=_text),
        _event("title", text=_text),
        _event("usage", call_id=_ids),
        _event("of.my.own", value=_text),
        st.just(("created", _created)),
    ),
    max_size=25,
)
_terminals = st.sampled_from(
    [
        ("completed", {"finish_reason": "stop"}),
        ("failed", {"code": "x", "message": "m", "retryable": False}),
        ("aborted", {"by": "user", "early": False, "title": "T"}),
        ("replaced", {"by": 2}),
    ]
)


def read(reader: Reader, frames: list[bytes]) -> None:
    for message in Decoder().feed(b"".join(frames)):
        reader.take(message.event, json.loads(message.data))


@settings(max_examples=200, deadline=None)
@given(events=_events, terminal=_terminals)
def test_a_sync_anywhere_shows_what_there_is(
    events: list[tuple[str, dict[str, Any]]], terminal: tuple[str, dict[str, Any]]
) -> None:
    """Frames are numbered; a state that went through JSON goes on as if nothing had been."""
    records = [Record(n, kind, encode_data(data)) for n, (kind, data) in enumerate([*events, terminal], 1)]
    told = LibreChat(stream_id="s", generation=1, created_at=0.0)
    states = [told.copy()]
    frames: list[list[bytes]] = []
    for record in records:
        frames.append(list(told.feed(record)))
        states.append(told.copy())
    whole = Reader()
    read(whole, [frame for some in frames for frame in some])
    assert (whole.final is None) is (terminal[0] in ("failed", "replaced"))
    assert (whole.error is None) is (whole.final is not None)
    ids = [re.fullmatch(rb"event: \w+\ndata: .*\nid: 1-(\d+)\n\n", frame) for some in frames for frame in some]
    assert [found and int(found[1]) for found in ids] == list(range(1, told.count + 1))
    for at, state in enumerate(states[:-1]):
        late = Reader()
        assert state.sync().endswith(b"\nid: 1-%d\n\n" % state.count)
        read(late, [state.sync()])
        rest = [frame for record in records[at:] for frame in state.feed(record)]
        assert rest == [frame for some in frames[at:] for frame in some]
        read(late, rest)
        assert (late.content, late.final, late.error) == (whole.content, whole.final, whole.error)


# the routes


class Talk:
    """A run that says two words, and waits before each of them while `go` is clear."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.requests: list[StartRequest] = []
        self.manager = GenerationManager(options=Options(sweep=0.02, poll=0.02, abort_grace=10.0))
        self.app = create_app(self.manager, run=self.run, dialects=["librechat"], authenticate=who)

    async def run(self, gen: Generation, request: StartRequest) -> None:
        self.requests.append(request)
        for word in ("one ", "two"):
            await self.go.wait()
            await gen.text(word)
            await gen.snapshot()


def who(request: HTTPConnection) -> str | None:
    return request.headers.get("x-user", "ann")


async def start(client: httpx2.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post(f"{BASE}/openAI", json={"text": "hi", "messageId": "m", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def frames_of(client: httpx2.AsyncClient, last: str = "", query: str = "") -> list[Message]:
    answer = await client.get(f"{BASE}/stream/c{query}", headers={"last-event-id": last})
    assert answer.status_code == 200, answer.text
    return Decoder().feed(answer.content)


async def test_every_id_goes_on_with_the_rest(serving: Serving) -> None:
    """That of a sync too; an id that is none, and one beyond the end, are refused."""
    talk = Talk()
    talk.go.set()
    async with serving(talk.app) as client:
        await start(client, conversationId="c")
        whole = await frames_of(client)
        stamp = (await talk.manager.job("c", user="ann")).stamp
        assert [message.id for message in whole] == [f"{stamp}-{number}" for number in range(1, 6)]
        for last in range(6):
            assert (await frames_of(client, f"{stamp}-{last}"))[0:] == [
                message._replace(retry=1000 if at == 0 else None) for at, message in enumerate(whole[last:])
            ]
        for wrong in ("x", f"{stamp}-", f"{stamp}-+1", "1.5"):
            refused = await client.get(f"{BASE}/stream/c", headers={"last-event-id": wrong})
            assert (refused.status_code, refused.json()["field"]) == (400, "Last-Event-ID")
        synced = await frames_of(client, query="?resume=true")
        assert [(message.event, message.id) for message in synced] == [
            ("message", f"{stamp}-4"), ("message", f"{stamp}-5")
        ]  # fmt: skip
        assert json.loads(synced[0].data)["resumeState"]["aggregatedContent"] == [{"type": "text", "text": "one two"}]
        beyond = await client.get(f"{BASE}/stream/c", headers={"last-event-id": f"{stamp}-6"})
        assert (beyond.status_code, beyond.json()["code"]) == (409, "invalid_position")


async def test_an_id_of_another_answer_gets_a_sync(serving: Serving) -> None:
    """Of the answer before, of one in a store that is lost, and of none: never the rest of this one alone."""
    talk = Talk()
    talk.go.set()
    async with serving(talk.app) as client:
        await start(client, conversationId="c")
        earlier = await frames_of(client)
        await start(client, conversationId="c", messageId="m2")
        last = (await frames_of(client))[-1]
        for foreign in (str(earlier[2].id), "2-00000000-2", "2-2", "2"):
            synced, final = await frames_of(client, foreign)
            assert json.loads(synced.data)["resumeState"]["userMessage"]["messageId"] == "m2"
            assert (final.id, final.data) == (last.id, last.data)


async def test_what_is_started(serving: Serving) -> None:
    """A new conversation gets an id; what is sent twice is one turn; the run gets all that the client said."""
    talk = Talk()
    async with serving(talk.app) as client:
        for new in (None, "", "new"):
            made = await start(client, conversationId=new, messageId=None)
            assert UUID(made["streamId"])
            assert made["conversationId"] == made["streamId"]
        said: dict[str, Any] = {"conversationId": "c", "endpointOption": {"model": "m"}, "files": [1]}
        for key in ({}, {"clientRequestId": "k"}):
            assert [(await start(client, **said, **key))["status"] for _ in range(2)] == ["started", "resumed"]
        assert len(talk.requests) == 5
        assert (talk.requests[3].model, talk.requests[3].parameters["files"]) == ("m", [1])
        assert (await talk.manager.job("c", user="ann")).metadata.endpoint == "openAI"


async def test_stop_without_a_name_means_the_only_one(serving: Serving) -> None:
    """A chat may be so new that its client knows no id; where there are two, none is stopped."""
    talk = Talk()
    async with serving(talk.app) as client:
        await start(client, conversationId="c")
        await start(client, conversationId="d")
        assert (await client.post(f"{BASE}/abort")).status_code == 400
        assert (await client.post(f"{BASE}/abort", json={"conversationId": "d"})).json()["aborted"] == "d"
        assert (await client.post(f"{BASE}/abort")).json() == {"success": True, "aborted": "c"}
        final = json.loads((await frames_of(client))[-1].data)
        assert (final["aborted"], final["earlyAbort"], final["requestMessage"]["messageId"]) == (True, False, "m")
        assert (final["responseMessage"]["unfinished"], final["responseMessage"]["content"]) == (True, [])
        # Of a turn that another protocol began nothing is known, and nothing was said: its client goes back to no chat.
        await client.post("/v1/streams/c/generations", json={"messages": [{"role": "user", "content": "hi"}]})
        assert (await client.post(f"{BASE}/abort")).json() == {"success": True, "aborted": "c"}
        final = json.loads((await frames_of(client))[-1].data)
        assert (final["earlyAbort"], final["requestMessage"], final["responseMessage"]) == (True, None, None)


async def test_anothers_stream_does_not_exist(serving: Serving) -> None:
    """Every route answers as for a stream that there is not; nothing is stopped or started."""
    talk = Talk()
    async with serving(talk.app) as client:
        await start(client, conversationId="c")
        eve = {"x-user": "eve"}
        told: list[list[tuple[int, str]]] = []
        for name in ("c", "x"):
            asked = [
                await client.get(f"{BASE}/stream/{name}{query}", headers=eve) for query in ("", "?resume=true")
            ]  # fmt: skip
            asked.append(await client.get(f"{BASE}/stream/{name}", headers={**eve, "last-event-id": "1"}))
            asked.append(await client.get(f"{BASE}/status/{name}", headers=eve))
            asked += [
                await client.post(f"{BASE}/abort", json=stop, headers=eve)
                for stop in ({"streamId": name}, {"conversationId": name}, {"abortKey": f"{name}:m_"}, {})
            ]
            told.append([(answer.status_code, answer.text.replace(f'"{name}"', "?")) for answer in asked])
        assert told[0] == told[1]
        assert [status for status, _ in told[0]] == [404, 404, 404, 200, 404, 404, 404, 400]
        assert (await client.get(f"{BASE}/active", headers=eve)).json() == {"activeJobIds": []}
        taken = await client.post(BASE, json={"text": "hi", "messageId": "m", "conversationId": "c"}, headers=eve)
        assert taken.status_code == 404
        assert not (await talk.manager.job("c", user="ann")).settled
        assert (await talk.manager.counts()).total == 1
