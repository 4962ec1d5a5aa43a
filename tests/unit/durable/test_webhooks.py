"""Webhooks: which addresses are called, how, and until when."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
from typing import Any

import pytest

if importlib.util.find_spec("cryptography") is None:
    pytest.skip("webhooks need the extra `webhooks`", allow_module_level=True)

from tests.unit.durable.kit import JSON, ME, within
from tests.unit.durable.subscribing import Receiver, add, pair
from tests.waiting import HANG
from unspool.durable import subscription as rules
from unspool.durable import webhooks
from unspool.durable.subscription import Terms
from unspool.durable.webhooks import Signer, WebhookRejected, checked
from unspool.errors import ConfigurationError


async def test_a_webhook_is_called_until_it_answers() -> None:
    """Failures are tried again with the same wake; done is done; the signature is that of the key that is told."""
    tries = 0

    def answer(told: dict[str, Any]) -> tuple[int, Any]:
        nonlocal tries
        tries += 1
        return (500, {}) if tries == 1 else (200, {"done": True})

    async with Receiver(answer).listening() as hook, pair() as ((one, first), (two, second)):
        terms = Terms(type="webhook", pattern="events/*", url=hook.url, lease_ttl_ms=60_000)
        await first.create(ME, "s", terms, "http://b")
        await two.create("events/a", ME, JSON)
        number = await add(two, second, "events/a")
        await hook.until(2)
        (failed, _, _), (told, body, signature) = hook.got
        assert (failed["wake_id"], failed["generation"]) == (told["wake_id"], told["generation"])
        assert told["streams"][0]["path"] == "events/a"
        assert told["callback_url"] == "http://b/subscriptions/s/callback"
        async with asyncio.timeout(HANG):
            while (await first.get(ME, "s")).links["events/a"].acked != number:
                await asyncio.sleep(0.005)
        _check(signature, body, first.signer)
        assert first.signer.kid == second.signer.kid
        await add(one, first, "events/a")
        await hook.until(3)
        assert hook.got[2][0]["generation"] == 2


def _check(signature: str, body: bytes, signer: Signer) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    told = dict(part.split("=", 1) for part in signature.split(","))
    (key,) = signer.jwks()["keys"]
    assert told["kid"] == key["kid"]
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "=="))
    public.verify(base64.urlsafe_b64decode(told["ed25519"] + "=="), b"%b.%b" % (told["t"].encode(), body))


async def test_a_webhook_may_take_its_time() -> None:
    """It has the wake for its lease, and calls back; meanwhile it is not called again."""
    async with Receiver(lambda told: (200, {})).listening() as hook, pair() as ((one, first), (_, second)):
        await first.create(ME, "s", Terms(type="webhook", pattern="events/*", url=hook.url), "http://b")
        await one.create("events/a", ME, JSON)
        await add(one, first, "events/a")
        await hook.until(1)
        await add(one, first, "events/a")
        told = hook.got[0][0]
        number = rules.Ack("events/a", 2)
        shown = (told["callback_token"], told["wake_id"], told["generation"])
        assert rules.owner_in(told["callback_token"]) == ME
        assert await within(second.ack(ME, "s", *shown, [number], done=True))
        await hook.until(2)
        # A call whose answer is late is repeated, with the same wake.
        assert [*dict.fromkeys(got["generation"] for got, _, _ in hook.got)] == [1, 2]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x", "https://10.0.0.1/x", "https://127.0.0.1/x", "https://[::1]/x", "https://169.254.1.1/",
        "https://user@example.com/", "ftp://example.com/", "https://", "https://[/", "http://10.0.0.1/hook",
        "https://[::ffff:127.0.0.1]/", "https://example.com:99999/", "https://224.0.0.1/", "https://[ff0e::1]/",
        "https://[64:ff9b::a00:1]/", "https://[2002:a00:1::]/", "https://[::10.0.0.1]/", "https://[fec0::1]/",
        "https://exämple.com/", "https://example.com/a b", "https://example.com/\x01", "https://0.0.0.0/",
    ],
)  # fmt: skip
def test_addresses_that_are_not_called(url: str) -> None:
    with pytest.raises(WebhookRejected):
        checked(url, local=True)


@pytest.mark.parametrize("found", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "64:ff9b::a00:1"])
async def test_a_name_that_leads_inside_is_not_called(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where only one of its addresses does; a number in another notation is a name."""
    loop = asyncio.get_running_loop()
    asked: list[str] = []

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(0, 0, 0, "", (address, port)) for address in ("93.184.216.34", found)]

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    for url in ("https://inside.example/", "https://2130706433/", "https://127.1/"):
        with pytest.raises(WebhookRejected):
            await webhooks.call(url, b"", {}, local=True)
    assert asked == ["inside.example", "2130706433", "127.1"]


async def test_a_webhook_is_called_at_what_its_name_was_resolved_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: a name that leads elsewhere the second time leads nobody there."""
    loop = asyncio.get_running_loop()
    resolved: list[str] = []

    async with Receiver(lambda told: (200, {"done": True})).listening() as hook:

        async def resolve(host: str, port: int, **_: Any) -> list[Any]:
            resolved.append(host)
            return [(0, 0, 0, "", ("127.0.0.1" if len(resolved) == 1 else "10.0.0.1", port))]

        with monkeypatch.context() as patched:
            patched.setattr(loop, "getaddrinfo", resolve)
            url = hook.url.replace("127.0.0.1", "localhost")
            answer = await webhooks.call(url, b"{}", {"webhook-signature": "x"}, local=True)
        assert (answer, resolved) == ({"done": True}, ["localhost"])


async def test_no_redirect_is_followed() -> None:
    async with Receiver(lambda told: (302, {})).listening() as hook:
        with pytest.raises(webhooks.DeliveryFailed):
            await webhooks.call(hook.url, b"{}", {"webhook-signature": "x"}, local=True)
        assert len(hook.got) == 1


async def test_a_webhook_that_drips_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole call has its time, not each byte."""
    monkeypatch.setattr(webhooks, "_TIMEOUT", 1.0)  # enough to send the request, also where the machine stalls
    left = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 1000\r\n\r\n")
        while not (reader.at_eof() or writer.is_closing()):  # closed, or reset, which is no end of what is read
            writer.write(b" ")
            await asyncio.sleep(0.02)
        writer.close()
        left.set()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(webhooks.DeliveryFailed):
            await within(webhooks.call(url, b"{}", {}, local=True))
        await within(left.wait())


def test_addresses_that_are_called() -> None:
    checked("https://example.com:8443/x?y=z", local=False)
    checked("http://localhost:1/x", local=True)
    with pytest.raises(WebhookRejected):
        checked("http://localhost:1/x", local=False)
    with pytest.raises(ConfigurationError):
        Signer(b"short")
