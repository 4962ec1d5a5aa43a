"""Exporters of entries: a webhook of your own, and Stripe's billing meters."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any, Final, Literal
from urllib.parse import urlencode

import msgspec

from unspool.errors import ConfigurationError, UnspoolError
from unspool.ledger.outbox import Parcel

_TIMEOUT: Final = 15.0
_LONGEST_IDENTIFIER: Final = 100


class DeliveryRefused(UnspoolError):
    """The receiver of an entry did not take it."""

    code, status, fault = "delivery_refused", 502, "system"


class _HttpExporter:
    def __init__(self, headers: dict[str, str]) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise ConfigurationError(
                f"ledger: exporting needs the extra: pip install 'unspool[client]' ({error})"
            ) from error
        self._client = httpx2.AsyncClient(timeout=_TIMEOUT, headers=headers)

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> None:
        answer = await self._client.post(url, content=body, headers=headers)
        if not answer.is_success:
            raise DeliveryRefused(f"the receiver answered {answer.status_code}", http_status=answer.status_code)


class Webhook(_HttpExporter):
    """Posts each entry as JSON: the parcel's payload.

    `Idempotency-Key` is the entry's key. With a `secret`, `Unspool-Signature` is `sha256=` and the HMAC-SHA256 of the
    body under it, in hexadecimal.
    """

    def __init__(self, url: str, *, secret: str | None = None) -> None:
        super().__init__({"content-type": "application/json"})
        self._url = url
        self._secret = secret

    async def export(self, parcel: Parcel) -> None:
        body = msgspec.json.encode(parcel.payload)
        headers = {"idempotency-key": parcel.key}
        if self._secret is not None:
            headers["unspool-signature"] = f"sha256={hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()}"
        await self._post(self._url, body, headers)


class StripeMeter(_HttpExporter):
    """Reports what calls cost as Stripe billing meter events: charges, true-ups and re-ratings; grants stay here.

    `event_name`: the meter's. `customer`: Stripe's customer for an account. `value`: `cost`, whole nano-USD, or
    `tokens`, input and output together, once for each call. The event's identifier is the entry's key, or its hash
    where that is too long; a true-up that gives back is a negative value.
    """

    def __init__(
        self,
        api_key: str,
        *,
        event_name: str,
        customer: Callable[[str], str] = str,
        value: Literal["cost", "tokens"] = "cost",
        base_url: str = "https://api.stripe.com",
    ) -> None:
        super().__init__({"authorization": f"Bearer {api_key}", "content-type": "application/x-www-form-urlencoded"})
        self._url = f"{base_url.rstrip('/')}/v1/billing/meter_events"
        self._event_name = event_name
        self._customer = customer
        self._value = value

    async def export(self, parcel: Parcel) -> None:
        value = self._value_of(parcel.payload)
        if not value:
            return
        key = parcel.key
        identifier = key if len(key) <= _LONGEST_IDENTIFIER else hashlib.sha256(key.encode()).hexdigest()
        form = {
            "event_name": self._event_name,
            "identifier": identifier,
            "timestamp": str(int(parcel.payload["created_at"])),
            "payload[stripe_customer_id]": self._customer(parcel.payload["account"]),
            "payload[value]": str(value),
        }
        await self._post(self._url, urlencode(form).encode(), {"idempotency-key": identifier})

    def _value_of(self, payload: dict[str, Any]) -> int:
        call = payload.get("call")
        if call is None:
            return 0
        if self._value == "cost":
            return -payload["amount"]
        if payload["kind"] != "charge" or call["usage"] is None:
            return 0
        return call["usage"]["input_tokens"] + call["usage"]["output_tokens"]
