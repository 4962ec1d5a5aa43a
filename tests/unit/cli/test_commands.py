"""The real command, in processes of its own: help, exit codes, and a server from its start to its end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import unspool
from tests.waiting import HANG
from unspool import cli
from unspool.cli.settings import Settings, flag_of
from unspool.client import Client, UnexpectedAnswer

Command = Callable[..., Awaitable[Any]]

QUESTION = "Tell me about rivers"
NOBODY = "http://127.0.0.1:9"


@pytest.fixture(name="run")
def _run(unspool: Command) -> Command:
    """The command, under a name that does not hide the package."""
    return unspool


async def test_without_arguments_it_shows_its_help(run: Command) -> None:
    ran = await run()
    assert (ran.code, ran.err) == (0, "")
    for name in ("serve", "ps", "tail", "stop", "version"):
        assert name in ran.out


@pytest.mark.parametrize("command", ["serve", "ps", "tail", "stop", "version"])
async def test_every_option_has_its_help(run: Command, command: str) -> None:
    ran = await run(command, "--help", COLUMNS="300")
    assert ran.code == 0
    options = [line.strip("│ ").strip() for line in ran.out.splitlines() if line.startswith("│") and " --" in line]
    assert options
    for line in options:
        assert len(line.split("  ")) > 1, f"no help: {line}"


async def test_serve_has_a_flag_for_every_setting_but_the_key(run: Command) -> None:
    ran = await run("serve", "--help", COLUMNS="300")
    for name in Settings.model_fields:
        assert (flag_of(name) in ran.out) == (name != "api_key"), name


async def test_version(run: Command) -> None:
    plain, machine = await run("version"), await run("version", "--json")
    assert plain.out == f"unspool {json.loads(machine.out)['version']}\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nonsense"], "No such command"),
        (["tail"], "Missing argument"),
        (["tail", "s", "--after", "-1"], "--after"),
        (["ps", "--status", "walking"], "--status must be one of running"),
        (["ps", "--url", "nowhere"], "not an http or https URL"),
        (["serve", "--port", "70000"], "--port is not valid"),
        (["serve", "--config", "missing.toml"], "missing.toml cannot be read"),
        (["serve", "--model", "nonsense"], "nonsense"),
        (["serve", "--model", "scripted", "--store", "carrier-pigeon://"], "store"),
        (["serve", "--model", "scripted", "--host", "0.0.0.0"], "set --token"),
        (["serve", "--upstream", "http://127.0.0.1:9/v1"], "--upstream needs --model"),
    ],
)
async def test_what_makes_no_sense_is_a_usage_error(run: Command, arguments: list[str], part: str) -> None:
    ran = await run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert part in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", [["ps"], ["tail", "s"], ["stop", "s"]])
async def test_without_a_server_it_says_how_to_start_one(run: Command, command: list[str]) -> None:
    ran = await run(*command, "--url", NOBODY)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        f"error: no server answers at {NOBODY}; start one with: unspool serve (or say where it is with --url)\n"
    )


@asynccontextmanager
async def answering(reply: bytes) -> AsyncGenerator[str]:
    """Something that speaks HTTP and is no unspool server."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("reply", "part"),
    [
        (
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\nconnection: close\r\n\r\n<p>no",
            "is this an unspool server?",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n<p>hi", "is this an unspool server?"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]", "is this an unspool server?"),
        (b"not http at all\r\n\r\n", "broke"),
        (b"", "broke"),
        (
            b'HTTP/1.1 401 No\r\ncontent-length: 22\r\nconnection: close\r\n\r\n{"detail":"\\u001b[2Jno"}',
            "Give a token with --token",
        ),
        (
            b'HTTP/1.1 404 No\r\ncontent-length: 29\r\nconnection: close\r\n\r\n{"detail":"two\\nlines\\ud800"}',
            "two lines",
        ),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b"[" * 20_000, "is this an unspool server?"),
        (b"HTTP/1.1 500 No\r\nconnection: close\r\n\r\n" + b"[" * 20_000, "is this an unspool server?"),
    ],
)
async def test_a_strange_answer_is_one_line(run: Command, reply: bytes, part: str) -> None:
    async with answering(reply) as url:
        ran = await run("ps", "--url", url)
    assert (ran.code, ran.out) == (1, "")
    assert part in ran.err
    assert len(ran.err.splitlines()) == 1
    assert "\x1b" not in ran.err


async def test_a_stream_from_its_start_to_its_stop(run: Command, serve: Command) -> None:
    served = await serve("--model", "scripted", "--delay", "1")  # 284 chunks: it runs until it is stopped
    assert "scripted" in served.announced
    env = {"UNSPOOL_URL": served.url}
    async with Client(served.url) as client:
        await client.start("conv-71", QUESTION)
        async with aclosing(client.follow("conv-71")) as records:
            async for record in records:
                if record.type.endswith(".delta"):
                    break
    listed, machine = await run("ps", **env), await run("ps", "--json", **env)
    assert listed.out.splitlines()[1].split()[:3] == ["conv-71", "1", "running"]
    assert json.loads(machine.out)["streams"][0]["metadata"]["model"] == "scripted"
    stopped = await run("stop", "conv-71", "--json", "--reason", "enough", **env)
    answer = json.loads(stopped.out)
    assert (stopped.code, answer["outcome"], answer["final"]["reason"]) == (0, "stopped", "enough")
    again = await run("stop", "conv-71", **env)
    assert (again.code, again.out.startswith("already ended conv-71/1: aborted")) == (0, True)
    tailed = await run("tail", "conv-71", **env)
    assert tailed.code == 3
    assert tailed.out.startswith("> Tell me about rivers\n")
    assert tailed.out.rstrip("\n").endswith(answer["content"][-1]["text"])
    assert "stopped by user: enough" in tailed.err
    assert "no generations with status running" in (await run("ps", **env)).out
    assert "aborted" in (await run("ps", "--status", "all", **env)).out


async def test_what_is_unknown_is_refused(run: Command, serve: Command) -> None:
    served = await serve("--model", "scripted")
    for command in (["stop", "nobody"], ["tail", "nobody"]):
        ran = await run(*command, "--url", served.url)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith("error: There is no such stream")


async def test_a_server_with_a_token_wants_it(run: Command, serve: Command) -> None:
    served = await serve("--model", "scripted", UNSPOOL_TOKEN="sesame, other")
    refused = await run("ps", "--url", served.url)
    assert refused.code == 1
    assert "Give a token with --token or UNSPOOL_TOKEN" in refused.err
    for token in ("sesame", "other"):
        assert (await run("ps", "--url", served.url, "--token", token)).code == 0


async def test_without_a_token_other_host_names_are_not_answered(serve: Command) -> None:
    served = await serve("--model", "scripted")
    async with Client(served.url) as client:
        await client.list()
        client._headers["host"] = "evil.example"
        with pytest.raises(UnexpectedAnswer, match="400"):
            await client.list()


async def test_another_model_than_the_server_s_is_told(serve: Command, run: Command) -> None:
    served = await serve("--model", "scripted", "--delay", "0")
    async with Client(served.url) as client:
        await client.start("s", QUESTION, model="another")
    ran = await run("tail", "s", "--url", served.url)
    assert ran.code == 1
    assert "does not have that model; it has scripted" in ran.err


async def test_a_port_that_is_taken_is_told(run: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = await run("serve", "--model", "scripted", "--port", str(taken.getsockname()[1]))
    assert ran.code == 1
    assert "--port" in ran.err
    assert "Traceback" not in ran.err


async def test_the_limits_of_the_settings_hold(serve: Command, run: Command) -> None:
    served = await serve("--model", "scripted", "--delay", "600", "--stall", "0.3")
    async with Client(served.url) as client:
        await client.start("s", QUESTION)
    ran = await run("tail", "s", "--url", served.url)
    assert ran.code == 3
    assert "stopped by system: stalled" in ran.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_in_spite_of_an_open_stream(serve: Command, spawn: Command, number: int) -> None:
    """The run would go on for minutes, and its viewer follows it: neither holds up the end, and the viewer hears of
    it."""
    served = await serve("--model", "scripted", "--delay", "1", "--drain", "0.5")
    async with Client(served.url) as client:
        await client.start("s", QUESTION)
    viewer = await spawn("tail", "s", "--url", served.url)
    assert await viewer.stdout.readline() == b"> Tell me about rivers\n"
    served.process.send_signal(number)
    async with asyncio.timeout(HANG):
        _, err = await served.process.communicate()
        _, told = await viewer.communicate()
    assert b"Traceback" not in err
    assert (viewer.returncode, b"(interrupted)" in told) == (1, True)


async def test_a_toml_file_in_the_folder_is_taken(run: Command, tmp_path: Path) -> None:
    (tmp_path / "unspool.toml").write_text("prot = 1\n")
    ran = await run("serve")
    assert (ran.code, ran.err) == (2, "error: unspool.toml has an unknown key 'prot': did you mean 'port'?\n")


def test_without_the_extra_it_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("unspool.cli.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert str(caught.value.code) == (
        "unspool: the command line needs the extra 'server' (typer): pip install 'unspool[server]'"
    )
    assert unspool.__doc__
