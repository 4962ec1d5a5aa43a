"""Models as streams of events. The adapters are imported when they are first asked for, each with its extra."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from unspool.errors import ConfigurationError
from unspool.providers.base import Message, Model

if TYPE_CHECKING:
    from unspool.providers.anthropic import AnthropicModel
    from unspool.providers.local import LocalModel
    from unspool.providers.openai import OpenAIModel
    from unspool.providers.responses import OpenAIResponses

__all__ = ["AnthropicModel", "LocalModel", "Message", "Model", "OpenAIModel", "OpenAIResponses", "load_model"]

_LAZY: Final = {
    "OpenAIModel": "unspool.providers.openai",
    "OpenAIResponses": "unspool.providers.responses",
    "AnthropicModel": "unspool.providers.anthropic",
    "LocalModel": "unspool.providers.local",
    "ScriptedModel": "unspool.testing.model",  # no extra, but the testing package stands above this one
}
_SCRIPTED_DELAY: Final = 1 / 40
"""Seconds between the chunks of the scripted model: about the speed of a real one."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def load_model(spec: str, *, base_url: str | None = None, api_key: str | None = None) -> Model:
    """The model that a setting or a command line names.

    | `spec` | model |
    |---|---|
    | `scripted` | made-up answers, for demonstrations; needs nothing |
    | `local`, `local:{path}` | llama.cpp on the default weights, or on a GGUF file |
    | `anthropic:{name}` | Anthropic |
    | `openai:{name}` | OpenAI, or with `base_url` a server that speaks the same API |
    | `openai-responses:{name}` | likewise, by the Responses API: a run that is gone on with goes on there |
    | any other name, with `base_url` | likewise; its usage is charged under the server's host name |

    `base_url` and `api_key` default to what the provider's client reads from the environment. Raises
    ConfigurationError where `spec` names nothing, an extra is not installed, or a key or a file is missing.
    """
    kind, _, name = spec.partition(":")
    match kind:
        case "scripted" if not name:
            return __getattr__("ScriptedModel")(delay=_SCRIPTED_DELAY)
        case "local":
            local = __getattr__("LocalModel")
            return local(name, name=Path(name).stem) if name else local()
        case "anthropic" if name:
            return __getattr__("AnthropicModel")(name, base_url=base_url, api_key=api_key)
        case "openai" if name:
            return __getattr__("OpenAIModel")(name, base_url=base_url, api_key=api_key)
        case "openai-responses" if name:
            return __getattr__("OpenAIResponses")(name, base_url=base_url, api_key=api_key)
        case _ if spec and base_url:
            provider = urlsplit(base_url).hostname or "openai"
            return __getattr__("OpenAIModel")(spec, base_url=base_url, api_key=api_key, provider=provider)
        case _:
            raise ConfigurationError(
                f"there is no model {spec!r}: say scripted, local, local:PATH, openai:NAME, "
                "openai-responses:NAME, anthropic:NAME, or the name of a model together with the base URL of an "
                "OpenAI-compatible server"
            )
