"""Which model answers: what the settings name, with a note for people where it is not what they may expect."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, cast

from unspool.agents import continued_call
from unspool.cli.output import USAGE, CommandError
from unspool.cli.settings import Settings
from unspool.errors import ConfigurationError, RunFailed
from unspool.http import Answer, StartRequest
from unspool.manager import GenerationManager
from unspool.producer import Generation
from unspool.providers import Message, Model, load_model
from unspool.providers.chat import text_of
from unspool.testing.model import ScriptedModel

if TYPE_CHECKING:
    from unspool.providers import OpenAIResponses

_log = logging.getLogger("unspool.cli")

_BUILT_IN = ("auto", "scripted", "local")


class Chosen(NamedTuple):
    """A model, and what people should know about it."""

    model: Model
    note: str | None = None


def choose_model(settings: Settings) -> Chosen:
    """The model that the settings name. Raises CommandError, naming the remedy."""
    name, upstream, provider = settings.model, settings.upstream, settings.provider
    if name in _BUILT_IN and (upstream is not None or provider is not None):
        flag = "--upstream" if upstream is not None else "--provider"
        raise CommandError(f"{flag} needs --model with the name that the provider knows the model by", USAGE)
    try:
        match name:
            case "scripted":
                return _scripted(settings, None)
            case "auto":
                return _auto(settings)
            case _:
                return Chosen(load_model(_spec(settings), base_url=upstream, api_key=_key(settings)))
    except ConfigurationError as error:
        raise CommandError(str(error), USAGE) from error


def _spec(settings: Settings) -> str:
    # A name may hold colons of its own: what --provider says comes first.
    return settings.model if settings.provider is None else f"{settings.provider}:{settings.model}"


def _key(settings: Settings) -> str | None:
    return None if settings.api_key is None else settings.api_key.get_secret_value()


def _auto(settings: Settings) -> Chosen:
    try:
        return Chosen(load_model("local"))
    except ConfigurationError as error:
        _log.warning("%s", error)
        return _scripted(
            settings, "The local model is not installed: a scripted one, whose answers are made up, stands in."
        )


def _scripted(settings: Settings, note: str | None) -> Chosen:
    model = ScriptedModel(seed=settings.seed, delay=settings.delay)
    return Chosen(model, note or "This model is scripted: its answers are made up.")


def continues(model: Model) -> TypeGuard[OpenAIResponses]:
    """Whether a call of this model outlives the process that made it."""
    return hasattr(model, "follow")


def answer_with(model: Model, settings: Settings, manager: GenerationManager) -> Answer:
    """The run that a POST starts: one call of this model with the conversation."""

    async def answer(gen: Generation, request: StartRequest) -> None:
        if request.model not in (None, model.name, settings.model):
            raise RunFailed(f"This server does not have that model; it has {model.name}.", code="unknown_model")
        messages = cast(list[Message], request.messages)
        if settings.system is not None:
            messages = [Message(role="system", content=settings.system), *messages]
        if gen.attempt == 1:
            await gen.emit("created", _created(gen, request, model))
        if continues(model):
            await continued_call(manager, gen, model, messages)
            return
        async with gen.model_call(provider=model.provider, model=model.name) as call:
            await gen.relay(model.stream(messages, call_id=call.call_id), call=call)

    return answer


def _created(gen: Generation, request: StartRequest, model: Model) -> dict[str, Any]:
    # So that the question can be shown beside the answer after a reload, or on another device. What the client said
    # of it itself, above all the id that it knows it by, stands.
    asked = [message for message in request.messages if message.get("role") == "user"]
    conversation = request.metadata.get("conversation_id") or gen.stream_id
    known: dict[str, Any] = {"conversation_id": conversation, "model": model.name}
    if "user_message" not in request.metadata and asked:
        known["user_message"] = {"id": f"{gen.job.label}/user", "text": text_of(asked[-1].get("content"))}
    return known
