"""The type declarations of the JavaScript client: the compiler takes what a user would write, and nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import shutil

import pytest

from tests.js.packages import HERE, MISSING, MODULES, installed

CLIENT = HERE.parents[1] / "clients" / "js"


async def compiled(*options: str) -> str:
    """What the TypeScript compiler has to say of types/usage.ts; nothing: all is well."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node found: install Node.js 20 or later to check the type declarations")
    if not installed():
        pytest.skip(MISSING)
    process = await asyncio.create_subprocess_exec(
        node, str(MODULES / "typescript/bin/tsc"), "--project", str(HERE / "types"), *options,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert (process.returncode == 0) == (not output), output.decode()
    return output.decode()


@pytest.mark.parametrize(
    "options", [(), ("--module", "ESNext", "--moduleResolution", "Bundler")], ids=["node", "bundler"]
)
async def test_a_user_program_compiles_in_strict_mode(options: tuple[str, ...]) -> None:
    """And each line marked with `@ts-expect-error` does not: the compiler complains of a mark without an error."""
    assert await compiled(*options) == ""


def test_every_name_is_declared_and_every_declaration_is_there() -> None:
    """What index.js exports and what index.d.ts declares as a value are the same names."""
    source = (CLIENT / "src/index.js").read_text()
    exported = {name.strip() for names in re.findall(r"export \{([^}]*)\}", source) for name in names.split(",")}
    declared = re.findall(r"^export (?:class|const|function) (\w+)", (CLIENT / "index.d.ts").read_text(), re.MULTILINE)
    assert exported == set(declared)


def test_the_lock_file_names_no_registry() -> None:
    """Packages come from wherever the user's npm is told to look, and are known by their hashes."""
    packages = json.loads((HERE / "package-lock.json").read_text())["packages"]
    assert all("://" not in package.get("resolved", "") for package in packages.values())
    named = {path: package for path, package in packages.items() if path.startswith("node_modules/")}
    assert all("integrity" in package or package.get("link") for package in named.values())
