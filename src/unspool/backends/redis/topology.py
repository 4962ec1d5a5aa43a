"""Topologies of Redis, from a URL or a client object: one server, the master that Sentinel names, or a cluster."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    TryAgainError,
)

from unspool.backends.redis.pipe import Argument, Pipe
from unspool.backends.redis.scripts import script
from unspool.errors import ConfigurationError, StoreUnavailable

SCHEMES: Final = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
    "valkey", "valkeys", "valkey+sentinel", "valkeys+sentinel", "valkey+cluster", "valkeys+cluster",
)  # fmt: skip
_MOVES: Final = 5  # times that a command follows a slot that is being moved
_MOVING: Final = 1.0  # seconds that it waits for a slot whose keys are on two nodes
_PAUSE: Final = 0.02
_TIMEOUT: Final = 5.0
_ONE_KEY: Final = frozenset({"drop", "due", "enter", "floor", "renewed"})
"""Scripts that touch only the key that they are given."""
_MUCH: Final = frozenset({"read"})
"""Scripts that may answer with a page of a log."""


class Topology(ABC):
    """Runs commands and scripts on the server that holds a key. `timeout`: seconds for a batch of commands."""

    database = 0
    """Number of the database on the server."""

    def __init__(self, timeout: float = _TIMEOUT) -> None:
        self.timeout = timeout

    @abstractmethod
    async def open(self) -> None:
        """Find the servers. Raises StoreUnavailable."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    def pipe(self, key: bytes) -> Pipe:
        """The connection to the server that holds this key."""

    def node(self, key: bytes) -> str:
        """The name of the server that holds this key, where there are several."""
        return ""

    @abstractmethod
    def pipes(self) -> Sequence[Pipe]:
        """One to every server that holds keys."""

    @abstractmethod
    def connect(self) -> AbstractConnection:
        """A connection of its own, for a subscriber. Not yet connected."""

    async def run(self, name: str, key: bytes, *arguments: Argument, more: Sequence[bytes] = ()) -> Any:
        """Run a script on a key, and on `more` keys of the same slot."""
        source = script(name)
        keys, much = 1 + len(more), name in _MUCH
        try:
            return await self.call(key, b"EVALSHA", source.sha, keys, key, *more, *arguments, much=much)
        except NoScriptError:  # a server that has not seen it, or has forgotten
            return await self.call(key, b"EVAL", source.source, keys, key, *more, *arguments, much=much)

    async def call(self, key: bytes, *command: Argument, much: bool = False) -> Any:
        """One command on the server that holds the key. `much`: its answer may be large. Raises StoreUnavailable."""
        return await self.pipe(key).call(*command, much=much)


def _alone(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Settings of a connection of our own: replies as bytes, no time-outs and no retries but ours."""
    changed: dict[str, Any] = {
        **kwargs, "decode_responses": False, "protocol": 2, "socket_timeout": None, "health_check_interval": 0,
        "retry": Retry(NoBackoff(), 0),
    }  # fmt: skip
    return {name: value for name, value in changed.items() if not name.startswith("maint_notifications")}


class Server(Topology):
    """One server, or the master that Sentinel names, which each new connection asks for."""

    def __init__(self, client: Redis, *, owned: bool, timeout: float = _TIMEOUT) -> None:
        super().__init__(timeout)
        self.database = int(client.connection_pool.connection_kwargs.get("db") or 0)
        self._client = client
        self._owned = owned
        self._pipe = Pipe(self.connect, timeout=timeout)

    def __repr__(self) -> str:
        return f"<Server {self._pipe!r}>"

    async def open(self) -> None:
        if self._pipe.closed:
            self._pipe = Pipe(self.connect, timeout=self.timeout)

    async def close(self) -> None:
        await self._pipe.close()
        if self._owned:
            await self._client.aclose()
            manager = getattr(self._client.connection_pool, "sentinel_manager", None)
            for sentinel in manager.sentinels if manager is not None else ():
                await sentinel.aclose()

    def pipe(self, key: bytes) -> Pipe:
        return self._pipe

    def pipes(self) -> Sequence[Pipe]:
        return [self._pipe]

    def connect(self) -> AbstractConnection:
        pool = self._client.connection_pool
        return pool.connection_class(**_alone(pool.connection_kwargs))


class Cluster(Topology):
    """A cluster: a connection to every master, found by the slot of the key."""

    def __init__(self, client: RedisCluster, *, owned: bool, timeout: float = _TIMEOUT) -> None:
        super().__init__(timeout)
        self._client = client
        self._owned = owned
        self._pipes: dict[str, Pipe] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Cluster {self._pipes!r}>"

    async def open(self) -> None:
        self._closed = False
        try:
            async with asyncio.timeout(self.timeout):
                await self._client.initialize()
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            raise StoreUnavailable(f"the Redis cluster cannot be reached: {error}") from error

    async def close(self) -> None:
        self._closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
        pipes, self._pipes = self._pipes, {}
        for pipe in pipes.values():
            await pipe.close()
        if self._owned:
            await self._client.aclose()

    def pipe(self, key: bytes) -> Pipe:
        owners = self._client.nodes_manager.slots_cache.get(self._client.keyslot(key))
        if not owners:
            raise StoreUnavailable("no node of the Redis cluster holds the slot of this key at present")
        return self._pipe_to(owners[0])

    def node(self, key: bytes) -> str:
        owners = self._client.nodes_manager.slots_cache.get(self._client.keyslot(key))
        return str(owners[0].name) if owners else ""

    def _pipe_to(self, node: Any) -> Pipe:
        if self._closed:
            raise StoreUnavailable("the connections to the Redis cluster were closed")
        pipe = self._pipes.get(node.name)
        if pipe is None:
            pipe = self._pipes[node.name] = Pipe(lambda: _to_node(node), timeout=self.timeout)
        return pipe

    def pipes(self) -> Sequence[Pipe]:
        return [self._pipe_to(node) for node in self._client.get_nodes() if node.server_type == "primary"]

    def connect(self) -> AbstractConnection:
        return _to_node(self._client.get_random_node())

    async def run(self, name: str, key: bytes, *arguments: Argument, more: Sequence[bytes] = ()) -> Any:
        if name not in _ONE_KEY:
            # A key that never exists. While a slot is being moved, a command on several keys is refused unless all of
            # them are there: so no script ever takes the half of a stream for the whole.
            more = (*more, key + b":-")
        return await super().run(name, key, *arguments, more=more)

    async def call(self, key: bytes, *command: Argument, much: bool = False) -> Any:
        now = asyncio.get_running_loop().time
        asking: Pipe | None = None
        moves, patience = 0, now() + _MOVING
        while moves < _MOVES:
            moves += 1
            try:
                if asking is not None:
                    return (await asyncio.gather(*asking.ask((b"ASKING",), command, much=much)))[1]
                return await self.pipe(key).call(*command, much=much)
            except MovedError as error:
                asking = None
                await self._client.nodes_manager.move_slot(error)
                self._refresh()
            except TryAgainError:
                if now() >= patience:
                    break
                asking, moves = None, 0
                await asyncio.sleep(_PAUSE)
            except AskError as error:
                node = self._client.get_node(node_name=str(error).rpartition(" ")[2])  # "ASK slot host:port"
                if node is None:
                    await asyncio.wait([self._refresh()])
                else:
                    asking = self._pipe_to(node)
            except StoreUnavailable:
                if not self._closed:
                    self._refresh()
                raise
        raise StoreUnavailable("the Redis cluster is moving the slot of this key")

    def _refresh(self) -> asyncio.Task[None]:
        """Ask the cluster again which node holds which slots, unless it is being asked."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refreshed(), name="redis cluster")
        return self._refreshing

    async def _refreshed(self) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                await self._client.nodes_manager.initialize()
        except (RedisError, RedisClusterException, OSError, TimeoutError):
            return  # it is asked again by the next call that fails
        names = {node.name for node in self._client.get_nodes()}
        for name in [name for name in self._pipes if name not in names]:
            await self._pipes[name].close()
            del self._pipes[name]


def _to_node(node: Any) -> AbstractConnection:
    return node.connection_class(**_alone(node.connection_kwargs))


def of_client(client: object, *, timeout: float = _TIMEOUT) -> Topology:
    """Around a client of redis-py's asyncio side, which is not closed here. Raises ConfigurationError."""
    if isinstance(client, RedisCluster):
        return Cluster(client, owned=False, timeout=timeout)
    if isinstance(client, Redis):
        return Server(client, owned=False, timeout=timeout)
    raise ConfigurationError(
        f"store: {type(client).__name__} is no client of redis.asyncio: give a Redis or RedisCluster, or a URL"
    )


def of_url(url: str) -> tuple[Topology, str]:
    """The topology that a URL names, and the prefix of its keys. Raises ConfigurationError, naming what is wrong.

    `redis://[user:password@]host[:port][/db]`, `rediss://` with TLS, `unix://path`;
    `redis+sentinel://host:port,host:port/service[/db]`; `redis+cluster://host:port,host:port`. `?prefix=` sets the
    prefix of all keys (`unspool`), `?timeout=` the seconds that a batch of commands may take (5); everything else goes
    to the connection.
    """
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.replace("valkeys", "rediss").replace("valkey", "redis").partition("+")
    options = dict(parse_qsl(parts.query))
    prefix = options.pop("prefix", "unspool")
    timeout = _seconds(options.pop("timeout", str(_TIMEOUT)))
    rest = "&".join(f"{name}={value}" for name, value in options.items())
    try:
        if not kind:
            target = parts._replace(scheme=scheme, query=rest).geturl()
            client: Redis = Redis.from_url(target)  # pyright: ignore[reportUnknownMemberType]
            return Server(client, owned=True, timeout=timeout), prefix
        hosts = _hosts(parts.netloc.rpartition("@")[2], 26379 if kind == "sentinel" else 6379)
        kwargs: dict[str, Any] = {}
        if "@" in parts.netloc:
            user, _, password = parts.netloc.rpartition("@")[0].partition(":")
            kwargs = {"username": unquote(user) or None, "password": unquote(password) or None}
        if kind == "cluster":
            from redis.asyncio.cluster import ClusterNode

            nodes = [ClusterNode(host, port) for host, port in hosts]
            cluster = RedisCluster(startup_nodes=nodes, ssl=scheme == "rediss", **kwargs)
            return Cluster(cluster, owned=True, timeout=timeout), prefix
        service, _, db = parts.path.strip("/").partition("/")
        if not service:
            raise ConfigurationError(f"store: name the service, as in {scheme}+sentinel://host:26379/mymaster")
        sentinel = Sentinel(hosts, sentinel_kwargs={"socket_timeout": timeout}, ssl=scheme == "rediss",
                            db=int(db or 0), **kwargs)  # fmt: skip
        master = sentinel.master_for(service)  # pyright: ignore[reportUnknownMemberType]
        return Server(master, owned=True, timeout=timeout), prefix
    except (ValueError, TypeError, RedisError, RedisClusterException) as error:
        raise ConfigurationError(f"store: {url.partition('?')[0]} is not a valid address: {error}") from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ConfigurationError(f"store: timeout must be a number of seconds above 0, not {text!r}")
    return seconds


def _hosts(netloc: str, port: int) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for host in netloc.split(","):
        name, _, number = host.rpartition(":") if ":" in host else (host, "", str(port))
        if not name or not number.isdigit():
            raise ConfigurationError(f"store: {host!r} is not host:port")
        found.append((name, int(number)))
    return found
