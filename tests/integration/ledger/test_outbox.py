"""Entries reach the outside at least once, under one key each, whatever the receiver and the processes do."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
from collections import Counter
from collections.abc import AsyncGenerator
from urllib.parse import parse_qs

import msgspec
import pytest

from tests.integration.ledger.conftest import Office, calling, key, used
from unspool.ledger import Ledger, Parcel, StripeMeter, Webhook
from unspool.ledger.setbacks import pause


class Receiver:
    """An HTTP server that answers every request with what `answer` says, and keeps what came."""

    def __init__(self) -> None:
        self.came: list[tuple[str, dict[str, str], bytes]] = []
        self.rng = random.Random(1)
        self.refuses = 0.0
        self.url = ""

    @property
    def keys(self) -> Counter[str]:
        return Counter(headers["idempotency-key"] for _, headers, _ in self.came)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {
                    name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
                }
                body = await reader.readexactly(int(headers["content-length"]))
                self.came.append((head[0].split()[1], headers, body))
                luck = self.rng.random()
                if luck < self.refuses / 2:
                    return  # taken, and never answered
                status = "503 Busy" if luck < self.refuses else "200 OK"
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    made = Receiver()
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as server:
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield made


async def spend(ledger: Ledger, calls: int) -> None:
    await ledger.grant("team", 10**9, id="g")
    await ledger.admit(key(), "team", amount=0)
    for step in range(calls):
        async with calling(ledger, key(), step=str(step)) as call:
            call.observe({"choices": [], "usage": used(10, step)})


async def test_a_webhook_that_fails_now_and_then_gets_everything(office: Office, receiver: Receiver) -> None:
    """Of several workers, each takes its own; what fails comes again, under the same key and with the same body."""
    now = [1_000_000.0]
    ledgers = [await office.open(clock=lambda: now[0]) for _ in range(2)]
    await spend(ledgers[0], 30)
    receiver.refuses = 0.5
    exporter = Webhook(receiver.url, secret="s3cret")
    workers = [ledger.delivery(exporter) for ledger in ledgers]
    while (await ledgers[0].audit()).undelivered:
        await asyncio.gather(*(worker.deliver() for worker in workers))
        now[0] += 3600
        assert len(receiver.came) < 1000
    await exporter.close()
    assert set(receiver.keys) == {entry.key for entry in (await ledgers[0].entries()).entries}
    assert max(receiver.keys.values()) > 1
    assert sum(worker.delivered for worker in workers) == 31
    assert len({(headers["idempotency-key"], body) for _, headers, body in receiver.came}) == 31
    for _, headers, body in receiver.came:
        assert headers["unspool-signature"] == f"sha256={hmac.new(b's3cret', body, hashlib.sha256).hexdigest()}"
    last = next(msgspec.json.decode(body) for _, _, body in receiver.came if b"main/29/1" in body)
    assert (last["account"], last["amount"], last["kind"]) == ("team", -68_000, "charge")
    assert (last["call"]["model"], last["call"]["usage"]["output_tokens"], last["call"]["cost_nano"]) == (
        "m",
        29,
        68_000,
    )
    assert last["call"]["unit_prices"]["output"] == "2"


async def test_workers_share_the_rows(office: Office, receiver: Receiver) -> None:
    """While nothing fails, nobody is told twice."""
    ledgers = [await office.open() for _ in range(3)]
    await spend(ledgers[0], 20)
    exporter = Webhook(receiver.url)
    await asyncio.gather(*(ledger.delivery(exporter).deliver() for ledger in ledgers))
    assert (await ledgers[0].audit()).undelivered == 0
    assert set(receiver.keys.values()) == {1}
    assert await ledgers[0].delivery(exporter).deliver() == 0
    await exporter.close()


async def test_what_a_dead_worker_had_taken_comes_back(office: Office) -> None:
    now = [1_000_000.0]
    ledger = await office.open(clock=lambda: now[0])
    await spend(ledger, 1)
    seen: list[Parcel] = []

    class Exporter:
        async def export(self, parcel: Parcel) -> None:
            seen.append(parcel)

        async def close(self) -> None: ...

    dead, alive = ledger.delivery(Exporter()), ledger.delivery(Exporter())
    taken = await ledger.database.write(dead._claim)
    assert len(taken) == 2
    assert await alive.deliver() == 0
    now[0] += 61
    assert await alive.deliver() == 2
    assert {parcel.attempts for parcel in seen} == {2}
    assert {parcel.key for parcel in seen} == {parcel.key for parcel in taken}


def test_pauses_double_up_to_an_hour() -> None:
    rng = random.Random(1)
    for attempts, longest in ((1, 1.0), (2, 2.0), (5, 16.0), (13, 3600.0), (1_000_000, 3600.0)):
        assert longest / 2 <= pause(attempts, rng) <= longest


async def test_an_open_ledger_delivers_by_itself(office: Office, receiver: Receiver) -> None:
    ledger = await office.open(exporter=Webhook(receiver.url), options={"deliver_every": 0.01})
    await spend(ledger, 5)
    async with asyncio.timeout(60):
        while (await ledger.audit()).undelivered or ledger.statistics()["delivered"] < 6:  # counted batch by batch
            await asyncio.sleep(0.01)
    assert len(receiver.keys) == 6
    assert ledger.statistics()["delivered"] == 6


async def test_stripe_meter_events(office: Office, receiver: Receiver) -> None:
    """Charges and true-ups as events of a meter; a grant stays here; a long key becomes its hash."""
    ledger = await office.open()
    await spend(ledger, 1)
    long_step = "s" * 200
    async with calling(ledger, key(), step=long_step, input_tokens=5) as call:
        call.observe("text")
        raised = call
    await ledger.settle(raised.call_id, used(2, 0))
    exporter = StripeMeter(
        "sk_test", event_name="llm", customer=lambda account: f"cus_{account}", base_url=receiver.url
    )
    assert await ledger.delivery(exporter).deliver() == 4
    await exporter.close()
    events = [{name: value[0] for name, value in parse_qs(body.decode()).items()} for _, _, body in receiver.came]
    assert {path for path, _, _ in receiver.came} == {"/v1/billing/meter_events"}
    assert {headers["authorization"] for _, headers, _ in receiver.came} == {"Bearer sk_test"}
    assert {event["event_name"] for event in events} == {"llm"}
    assert {event["payload[stripe_customer_id]"] for event in events} == {"cus_team"}
    values = {event["identifier"]: int(event["payload[value]"]) for event in events}
    long = [hashlib.sha256(f"call:{raised.call_id}{end}".encode()).hexdigest() for end in ("", ":trueup")]
    assert values == {"call:conv/1/main/0/1": 10_000, long[0]: 7_000, long[1]: -5_000}
    assert all(len(identifier) <= 100 for identifier in values)


async def test_stripe_may_count_tokens(office: Office, receiver: Receiver) -> None:
    ledger = await office.open()
    await spend(ledger, 2)
    exporter = StripeMeter("sk_test", event_name="tokens", value="tokens", base_url=receiver.url)
    await ledger.delivery(exporter).deliver()
    await exporter.close()
    values = sorted(int(parse_qs(body.decode())["payload[value]"][0]) for _, _, body in receiver.came)
    assert values == [10, 11]
