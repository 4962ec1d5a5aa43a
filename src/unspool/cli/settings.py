"""The settings of `unspool serve`: flags over environment over a TOML file over defaults, and errors that say which."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from unspool.cli.output import USAGE, CommandError

PREFIX: Final = "UNSPOOL_"
DEFAULT_FILE: Final = "unspool.toml"

_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class Settings(BaseSettings):
    """What a server is started with. A description is the flag's help and, when a value is wrong, the remedy."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on; others than loopback need a token.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on, 0 to 65535; 0 takes a free one.")
    model: str = Field(
        "auto",
        min_length=1,
        description="Model that answers: auto (local if it is installed, else scripted), local, local:PATH (a GGUF "
        "file), scripted, openai:NAME, openai-responses:NAME, anthropic:NAME; with --upstream the name that server "
        "knows it by.",
    )
    upstream: str | None = Field(
        None, description="Base URL of an OpenAI-compatible server, up to and including its /v1 (http or https)."
    )
    provider: Literal["openai", "openai-responses", "anthropic"] | None = Field(
        None, description="API that the model or the upstream speaks: openai-responses, openai or anthropic."
    )
    api_key: SecretStr | None = Field(
        None, description="The upstream's key; else OPENAI_API_KEY or ANTHROPIC_API_KEY is taken."
    )
    system: str | None = Field(None, description="System prompt put before every conversation.")
    store: str = Field(
        "memory://",
        description="Where generations are kept, as a URL: memory://, redis://host:port, "
        "redis+sentinel://host:port/name, redis+cluster://host:port.",
    )
    token: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Bearer token that clients must send; may be given several times, or separated by commas. "
        "Letters, digits and -._~+/ only.",
    )
    allow_origin: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origin beside the server's own whose pages may use it, as https://app.example; may be given "
        "several times, or separated by commas; * is any.",
    )
    ledger: str | None = Field(
        None,
        description="Where model calls are charged, as a URL: sqlite:// (in memory), sqlite:///file.db, "
        "postgresql://user@host/database.",
    )
    account: str = Field("default", description="The account of the ledger that pays for everybody's generations.")
    credit: Decimal = Field(Decimal(0), ge=0, description="USD that this account is granted, once.")
    retention: float = Field(3600.0, ge=0, description="Seconds for which an ended generation is kept, 0 or more.")
    lease: float = Field(
        10.0, gt=0, description="Seconds after which a silent owner counts as dead, more than 0; renewed at a third."
    )
    abort_grace: float = Field(
        2.0, ge=0, description="Seconds that a stopped run has for its clean-up, 0 or more; then it is cut off."
    )
    stall: float = Field(
        600.0, ge=0, description="Seconds without an event after which a generation is aborted; 0 switches that off."
    )
    max_jobs: int = Field(10_000, ge=1, description="Generations held in memory, 1 or more; ended ones make room.")
    drain: float = Field(
        5.0, ge=0, description="Seconds that generations may go on after SIGTERM, 0 or more; then they are interrupted."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)] = Field(
        "info", description="What is logged to standard error: debug, info, warning, error or critical."
    )
    access_log: bool = Field(False, description="Log every request: true or false.")
    seed: int = Field(0, description="Seed of the scripted model, a whole number.")
    delay: float = Field(0.025, ge=0, description="Mean seconds between two chunks of the scripted model, 0 or more.")

    @field_validator("token", "allow_origin", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("token")
    @classmethod
    def _check_tokens(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for token in value:
            if not _TOKEN.fullmatch(token):
                raise ValueError("a token is empty or has a character that a header cannot carry")
        return value

    @field_validator("upstream")
    @classmethod
    def _check_upstream(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("this is not an http or https URL")
        return value


def load(flags: Mapping[str, Any], *, config: Path | None = None) -> Settings:
    """The settings from flags, then the environment, then the TOML file, then the defaults.

    `config`: the file; else UNSPOOL_CONFIG names it, else ./unspool.toml where there is one. Raises CommandError,
    naming the field, where its value came from and what to do.
    """
    path = _find(config)
    values = _read(path) if path is not None else {}

    class Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, values)

    try:
        return Layered(**flags)
    except ValidationError as error:
        raise CommandError(_explain(error, flags, path), USAGE) from None


def flag_of(field: str) -> str:
    """The flag that sets a field."""
    return "--" + field.replace("_", "-")


def _find(config: Path | None) -> Path | None:
    if config is not None:
        return config
    if named := os.environ.get(f"{PREFIX}CONFIG"):
        return Path(named)
    default = Path(DEFAULT_FILE)
    return default if default.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CommandError(
            f"{path} cannot be read: {error.strerror}; check --config or {PREFIX}CONFIG", USAGE
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} is not TOML: {error}", USAGE) from None
    values: dict[str, Any] = {}
    for key, value in found.items():
        field = key.replace("-", "_")
        if field not in Settings.model_fields:
            raise CommandError(f"{path} has an unknown key {key!r}{_suggest(field)}", USAGE)
        if field in values:
            raise CommandError(f"{path} sets {field!r} twice", USAGE)
        values[field] = value
    return values


def _suggest(field: str) -> str:
    near = difflib.get_close_matches(field, Settings.model_fields, 1)
    return f": did you mean {near[0]!r}?" if near else f"; known are {', '.join(Settings.model_fields)}"


def _explain(error: ValidationError, flags: Mapping[str, Any], path: Path | None) -> str:
    lines: list[str] = []
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        field = str(detail["loc"][0])
        variable = f"{PREFIX}{field.upper()}"
        if field in flags:
            source = flag_of(field)
        elif os.environ.get(variable):
            source = variable
        else:
            source = f"{field} in {path}"
        reason = detail["msg"].removeprefix("Value error, ")
        lines.append(f"{source} is not valid: {reason}. {Settings.model_fields[field].description}")
    return " ".join(lines)
