"""Which model the settings name."""

from __future__ import annotations

import sys

import pytest

from unspool.cli.models import choose_model
from unspool.cli.output import USAGE, CommandError
from unspool.cli.settings import Settings
from unspool.testing.model import ScriptedModel


def settings(**values: object) -> Settings:
    return Settings.model_validate(values)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "UNSPOOL_API_KEY"):
        monkeypatch.delenv(name, raising=False)


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
