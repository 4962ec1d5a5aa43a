"""Settings: which source wins, and what an error says."""

from __future__ import annotations

from pathlib import Path

import pytest

from unspool.cli.output import USAGE, CommandError
from unspool.cli.settings import Settings, load


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody's environment, and a folder without a file."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"UNSPOOL_{name.upper()}", raising=False)
    monkeypatch.delenv("UNSPOOL_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "unspool.toml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def refusal(flags: dict[str, object], config: Path | None = None) -> str:
    with pytest.raises(CommandError) as caught:
        load(flags, config=config)
    assert caught.value.code == USAGE
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults() -> None:
    settings = load({})
    assert (settings.host, settings.port, settings.model, settings.token) == ("127.0.0.1", 8000, "auto", ())


def test_flags_win_over_environment_over_file_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    write("port = 1\nseed = 1\nmax_jobs = 1\n")
    monkeypatch.setenv("UNSPOOL_PORT", "2")
    monkeypatch.setenv("UNSPOOL_SEED", "2")
    settings = load({"port": 3})
    assert (settings.port, settings.seed, settings.max_jobs, settings.drain) == (3, 2, 1, 5.0)


def test_an_empty_variable_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSPOOL_PORT", "")
    assert load({}).port == 8000


def test_the_file_is_the_flag_s_then_the_variable_s_then_the_one_in_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    write("port = 1")
    assert load({}).port == 1
    monkeypatch.setenv("UNSPOOL_CONFIG", str(write("port = 2", "two.toml")))
    assert load({}).port == 2
    assert load({}, config=write("port = 3", "three.toml")).port == 3


def test_keys_may_be_spelt_as_flags_are() -> None:
    write("max-jobs = 7")
    assert load({}).max_jobs == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prot = 1", ["unspool.toml", "'prot'", "did you mean 'port'?"]),
        ("zzzzz = 1", ["unspool.toml", "'zzzzz'", "known are host, port"]),
        ("max-jobs = 1\nmax_jobs = 2", ["unspool.toml", "'max_jobs' twice"]),
        ("port = ", ["unspool.toml is not TOML", "Invalid value"]),
        ("port = 70000", ["port in unspool.toml is not valid", "65535", "0 takes a free one"]),
        ("port = 'x'", ["port in unspool.toml is not valid"]),
        ("token = 'a b'", ["token in unspool.toml is not valid", "header cannot carry"]),
        ("upstream = 'models.example/v1'", ["upstream in unspool.toml is not valid", "http or https"]),
        ("provider = 'acme'", ["provider in unspool.toml is not valid", "openai or anthropic"]),
    ],
)
def test_what_is_wrong_in_the_file_is_named(text: str, expected: list[str]) -> None:
    write(text)
    message = refusal({})
    for part in expected:
        assert part in message


def test_a_file_that_is_not_there_is_an_error() -> None:
    message = refusal({}, Path("missing.toml"))
    assert "missing.toml cannot be read" in message
    assert "--config" in message


def test_a_wrong_value_names_the_source_that_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    write("lease = 0")
    assert refusal({}).startswith("lease in unspool.toml is not valid")
    monkeypatch.setenv("UNSPOOL_LEASE", "-1")
    assert refusal({}).startswith("UNSPOOL_LEASE is not valid")
    assert refusal({"lease": -2}).startswith("--lease is not valid")


def test_every_wrong_value_is_told_at_once() -> None:
    message = refusal({"port": -1, "drain": -1})
    assert "--port" in message
    assert "--drain" in message


def test_tokens_come_as_a_list_or_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    write('token = ["a", "b"]')
    assert load({}).token == ("a", "b")
    monkeypatch.setenv("UNSPOOL_TOKEN", "c, d")
    assert load({}).token == ("c", "d")
    assert load({"token": ["e"]}).token == ("e",)


def test_origins_come_as_a_list_or_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSPOOL_ALLOW_ORIGIN", "https://a.example,https://b.example")
    assert load({}).allow_origin == ("https://a.example", "https://b.example")
    assert load({"allow_origin": ["*"]}).allow_origin == ("*",)


def test_a_refused_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSPOOL_TOKEN", "hush hush")
    assert "hush" not in refusal({})


def test_the_key_does_not_show_in_a_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNSPOOL_API_KEY", "sk-secret")
    settings = load({})
    assert "sk-secret" not in repr(settings)
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sk-secret"


def test_the_log_level_is_taken_in_either_case() -> None:
    assert load({"log_level": "DEBUG"}).log_level == "debug"


def test_every_setting_is_described() -> None:
    for name, known in Settings.model_fields.items():
        assert known.description, name
