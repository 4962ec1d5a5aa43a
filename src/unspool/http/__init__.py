"""HTTP: a router for an application of your own, and the whole server. Needs the extra `http`."""

from importlib.util import find_spec

if find_spec("starlette") is None:  # pragma: no cover
    from unspool.errors import ConfigurationError

    raise ConfigurationError("unspool.http needs starlette: pip install 'unspool[http]'")

from unspool.http.app import create_app
from unspool.http.auth import Authenticate, Identity, bearer
from unspool.http.dialects import DIALECTS
from unspool.http.door import Answer
from unspool.http.problem import problem
from unspool.http.pump import StreamOptions
from unspool.http.requests import StartRequest
from unspool.http.routes import router
from unspool.http.stream import EventStream

__all__ = [
    "DIALECTS",
    "Answer",
    "Authenticate",
    "EventStream",
    "Identity",
    "StartRequest",
    "StreamOptions",
    "bearer",
    "create_app",
    "problem",
    "router",
]
