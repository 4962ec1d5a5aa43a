"""nginx as a process of its own: its configuration, port, logs and temporary files are the test's, as is its end."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.servers.ports import free_port

UNPACKED = Path(__file__).parents[2] / ".cache/nginx/usr/sbin/nginx"
MISSING = "no nginx found: run `sh scripts/nginx.sh`, as make test does, or put one on the PATH"
TRIES = 5

_CONFIG = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log;
{user}
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        {settings}
        location / {{ proxy_pass http://127.0.0.1:{upstream}; }}
    }}
}}
"""


def find() -> str | None:
    """Where nginx is; ordinary users do not have /usr/sbin on their PATH."""
    if UNPACKED.is_file():
        return str(UNPACKED)
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")


@asynccontextmanager
async def fronting(program: str, directory: Path, upstream: int, settings: str) -> AsyncGenerator[int, None]:
    """nginx in front of a port of this machine, with these lines in its server block: the port that it listens on."""
    # Another process may take the port before nginx does; then another port is tried.
    for _ in range(TRIES):
        port = free_port()
        # Its workers would run as nobody, who may not write here.
        user = "user root;" if os.geteuid() == 0 else ""
        config = directory / "nginx.conf"
        config.write_text(_CONFIG.format(port=port, upstream=upstream, settings=settings, user=user))
        process = await asyncio.create_subprocess_exec(
            program, "-p", str(directory), "-e", "error.log", "-c", str(config), stderr=asyncio.subprocess.DEVNULL
        )
        try:
            while process.returncode is None:
                if (directory / "nginx.pid").exists():  # written once it listens
                    yield port
                    return
                await asyncio.sleep(0.02)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
    raise AssertionError(f"nginx did not start: {(directory / 'error.log').read_text()}")
