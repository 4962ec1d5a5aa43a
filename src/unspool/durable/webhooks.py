"""Calling webhooks: which addresses may be called, how a call is signed, and the call itself.

Whoever may subscribe makes this server send requests. So an address must be `https` and lead to the public Internet, it
is resolved once and called at just what it was resolved to, and no redirect is followed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import secrets
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

import msgspec

from unspool.errors import ConfigurationError, UnspoolError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_TIMEOUT: Final = 10.0
"""Seconds of a call, from the look-up of the name to the last byte of the answer."""
_ANSWER: Final = 64 * 1024
"""Bytes of an answer that are read."""


class WebhookRejected(UnspoolError):
    """This server does not call that address."""

    code, status, fault = "WEBHOOK_URL_REJECTED", 400, "caller"


class DeliveryFailed(Exception):
    """The webhook could not be reached, or did not answer with 2xx."""


class Signer:
    """Signs with Ed25519. `seed`: 32 bytes that all replicas share; without it a key of this process alone."""

    def __init__(self, seed: bytes | None = None) -> None:
        if seed is not None and len(seed) != 32:
            raise ConfigurationError("a signing key is a seed of 32 bytes")
        self._key = _private_key(seed or secrets.token_bytes(32))
        self._public = self._key.public_key().public_bytes_raw()
        self.kid = f"ds_{hashlib.sha256(self._public).hexdigest()[:16]}"

    def sign(self, body: bytes) -> str:
        """The value of `Webhook-Signature`: over the time, a dot, and the body."""
        now = int(time.time())
        signature = self._key.sign(b"%d.%b" % (now, body))
        return f"t={now},kid={self.kid},ed25519={_base64url(signature)}"

    def jwks(self) -> dict[str, Any]:
        """The public key, as a set of JSON Web Keys."""
        key = {"kty": "OKP", "crv": "Ed25519", "x": _base64url(self._public), "kid": self.kid}
        return {"keys": [{**key, "use": "sig", "alg": "EdDSA"}]}


def _private_key(seed: bytes) -> Ed25519PrivateKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise ConfigurationError(f"webhooks need the extra: pip install 'unspool[webhooks]' ({error})") from error
    return Ed25519PrivateKey.from_private_bytes(seed)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def checked(url: str, *, local: bool) -> SplitResult:
    """An address that may be called, as far as it says itself. `local`: one on this machine may, too, for development.

    Raises WebhookRejected.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise WebhookRejected(f"the address is not valid: {error}") from error
    if not url.isascii() or not url.isprintable() or " " in url:
        raise WebhookRejected("an address is printable ASCII without spaces: anything else is escaped in it")
    if local and parts.scheme == "http" and _is_this_machine(host):
        return parts
    if parts.scheme != "https" or not host or parts.username is not None or port == 0:
        raise WebhookRejected("a webhook has an address that begins with https://, without a user in it")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return parts
    if not _is_public(address):
        raise WebhookRejected(f"{host} is not on the public Internet")
    return parts


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """One host of the public Internet. What carries an IPv4 address in it may lead anywhere, and is refused."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    return address.is_global and address in _UNICAST and address.sixtofour is None and address.teredo is None


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _resolved(parts: SplitResult, *, local: bool) -> str:
    """What the host is called at: the first of its addresses, all of which must be allowed. Raises WebhookRejected."""
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DeliveryFailed(f"{host} is not found: {error}") from error
    addresses = [str(info[4][0]) for info in found]
    here = local and parts.scheme == "http"
    for address in addresses:
        parsed = ipaddress.ip_address(address.partition("%")[0])
        if not (parsed.is_loopback if here else _is_public(parsed)):
            raise WebhookRejected(f"{host} leads to {address}, which is not on the public Internet")
    return addresses[0]


async def call(url: str, body: bytes, headers: Mapping[str, str], *, local: bool) -> Any:
    """POST a body; what is answered, as far as it is JSON. Raises DeliveryFailed, WebhookRejected."""
    try:
        import httpx2
    except ImportError as error:
        raise ConfigurationError(f"webhooks need the extra: pip install 'unspool[webhooks]' ({error})") from error
    parts = checked(url, local=local)
    answer = bytearray()
    try:
        async with asyncio.timeout(_TIMEOUT):
            address = await _resolved(parts, local=local)
            literal = f"[{address}]" if ":" in address else address
            target = parts._replace(netloc=literal if parts.port is None else f"{literal}:{parts.port}", fragment="")
            asked = {
                **headers, "host": parts.netloc, "content-type": "application/json", "accept-encoding": "identity"
            }  # fmt: skip
            async with (
                httpx2.AsyncClient(timeout=_TIMEOUT, follow_redirects=False, trust_env=False) as client,
                client.stream(
                    "POST", urlunsplit(target), content=body, headers=asked, extensions={"sni_hostname": parts.hostname}
                ) as response,
            ):
                if not response.is_success:
                    raise DeliveryFailed(f"it answered {response.status_code}")
                async for part in response.aiter_raw():  # not unpacked: few bytes can be very many
                    answer += part
                    if len(answer) > _ANSWER:
                        return None
    except TimeoutError as error:
        raise DeliveryFailed(f"it did not answer within {_TIMEOUT:g} seconds") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise DeliveryFailed(str(error) or type(error).__name__) from error
    try:
        return msgspec.json.decode(bytes(answer))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
