"""A block for nginx: it becomes the whole configuration, TLS and HTTP/2 included, and a stream must come through it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.docs.servers import PATIENCE, ran
from tests.interop.nginx import find
from tests.servers.ports import free_port

_AROUND: Final = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
{user}
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
{shown}
}}
"""


def missing() -> str | None:
    """What is not here, of the programs that it takes."""
    if find() is None:
        return "nginx is not installed"
    return next((f"{name} is not installed" for name in ("openssl", "curl") if shutil.which(name) is None), None)


@asynccontextmanager
async def nginx(shown: str, folder: Path) -> AsyncGenerator[None]:
    """nginx with what is shown as the content of its http block, running while this is entered."""
    program = find()
    assert program is not None
    user = "user root;" if os.geteuid() == 0 else ""  # its workers would run as nobody, who may not write here
    config = folder / "nginx.conf"
    config.write_text(_AROUND.format(user=user, shown=shown))
    command = (program, "-p", str(folder), "-e", "error.log", "-c", str(config))
    await ran(*command, "-t", folder=folder, env=os.environ)
    listens = folder / "nginx.pid"  # `-t` leaves it empty; the process itself is named in it once it listens
    process = await asyncio.create_subprocess_exec(*command)
    try:
        async with asyncio.timeout(PATIENCE):
            while not listens.exists() or not listens.read_text():
                assert process.returncode is None, (folder / "error.log").read_text()
                await asyncio.sleep(0.02)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def try_nginx(shown: str, upstream: str, path: str, folder: Path, env: dict[str, str]) -> None:
    """Run nginx as it is shown, but for its port, its certificate and where the server is; read a stream through it."""
    curl = shutil.which("curl")
    assert curl is not None
    await ran(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-subj", "/CN=chat.example", "-days", "1", "-keyout", "own.key", "-out", "own.pem", folder=folder, env=env,
    )  # fmt: skip
    port = free_port()
    text = re.sub(r"listen 443", f"listen 127.0.0.1:{port}", shown)
    text = re.sub(r"/\S+\.pem", str(folder / "own.pem"), re.sub(r"/\S+\.key", str(folder / "own.key"), text))
    text = re.sub(r"http://127\.0\.0\.1:8000", upstream, text)
    async with nginx(text, folder):
        address = ("--resolve", f"chat.example:{port}:127.0.0.1", f"https://chat.example:{port}{path}")
        said = await ran(curl, "-skN", "--http2", "-D", "head.txt", *address, folder=folder, env=env)
    head = (folder / "head.txt").read_text()
    assert head.startswith("HTTP/2 200"), head
    assert "content-type: text/event-stream" in head
    assert said.endswith("\n\n"), "the stream was cut"
    assert "\nevent: completed\n" in said
