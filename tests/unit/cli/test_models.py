"""Which model the settings name."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import Serving
from unspool import GenerationManager
from unspool.cli.models import choose_model
from unspool.cli.output import USAGE, CommandError
from unspool.cli.serve import build_app
from unspool.cli.settings import Settings
from unspool.testing.model import ScriptedModel


def settings(**values: object) -> Settings:
    return Settings.model_validate(values)


def test_scripted() -> None:
    chosen = choose_model(settings(model="scripted", seed=7))
    assert isinstance(chosen.model, ScriptedModel)
    assert "made up" in (chosen.note or "")


def test_auto_takes_the_scripted_model_where_there_is_no_local_one_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    chosen = choose_model(settings(model="auto"))
    assert isinstance(chosen.model, ScriptedModel)
    assert "scripted" in (chosen.note or "")


async def test_an_upstream_is_called_under_the_name_and_with_the_key_that_were_given() -> None:
    pytest.importorskip("openai")
    chosen = choose_model(settings(model="llama3:8b", upstream="http://127.0.0.1:9/v1", api_key="k"))
    assert (chosen.model.name, chosen.note) == ("llama3:8b", None)
    await chosen.model.close()


async def test_a_provider_may_be_named_beside_the_model() -> None:
    pytest.importorskip("anthropic")
    chosen = choose_model(settings(model="some-model", provider="anthropic", api_key="k"))
    assert (chosen.model.provider, chosen.model.name) == ("anthropic", "some-model")
    await chosen.model.close()


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"upstream": "http://127.0.0.1:9/v1"}, "--upstream needs --model"),
        ({"provider": "openai", "model": "local"}, "--provider needs --model"),
        ({"model": "nonsense"}, "nonsense"),
        ({"model": "local:/nowhere.gguf"}, "/nowhere.gguf"),
        ({"model": "openai:some-model"}, "OPENAI_API_KEY"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(values: dict[str, object], part: str) -> None:
    with pytest.raises(CommandError, match=part) as caught:
        choose_model(settings(**values))
    assert caught.value.code == USAGE


async def test_the_server_lists_its_model_and_goes_on_with_a_conversation(serving: Serving) -> None:
    """What a client calls its conversation is not called otherwise by the run."""
    chosen = choose_model(settings(model="scripted", delay=0))
    assert isinstance(chosen.model, ScriptedModel)
    async with serving(build_app(settings(token=("t",)), chosen)) as client:
        client.headers["authorization"] = "Bearer t"
        assert [one["id"] for one in (await client.get("/v1/models")).json()["data"]] == ["scripted"]
        for text in ("One?", "Two?"):
            answered = await client.post("/v1/responses", json={"input": text, "conversation": "c"})
            assert answered.json()["status"] == "completed"
    asked = [message["role"] for message in chosen.model.requests[-1].messages]
    assert asked == ["user", "assistant", "user"]


async def test_a_model_whose_calls_outlive_their_process(serving: Serving) -> None:
    """By the Responses API an upstream is asked so that another replica can go on with the run; the others are not."""
    scripted = build_app(settings(token=("t",)), choose_model(settings(model="scripted", delay=0)))
    async with serving(scripted) as provider:
        known = settings(
            model="openai-responses:scripted", upstream=f"{provider.base_url}/v1", api_key="t", token=("t",)
        )
        app = build_app(known, choose_model(known))
        manager: GenerationManager = app.state.manager
        async with serving(app) as client:
            client.headers["authorization"] = "Bearer t"
            answered = (await client.post("/v1/responses", json={"input": "Hm?"})).json()
            provider.headers["authorization"] = "Bearer t"
            [asked] = (await provider.get("/v1/streams")).json()["streams"]
            there = (await provider.get(f"/v1/responses/{asked['stream_id']}")).json()
            answers = [[{**item, "id": ""} for item in response["output"]] for response in (answered, there)]
            assert answers[0] == answers[1]
            assert (answered["usage"], answered["model"]) == (there["usage"], "scripted")
            job = await manager.job(answered["id"], user="token")
            assert job.task is not None
            assert job.task.resume
