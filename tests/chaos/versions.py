"""Another version of this project: the code of an earlier commit, beside that of today."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from tests.integration.redis.processes import ROOT


def extracted(commit: str, folder: Path) -> Path:
    """Write the sources and tests of a commit into a folder. Raises SystemExit where there is no such commit."""
    made = subprocess.run(["git", "archive", commit, "src", "tests"], cwd=ROOT, capture_output=True, check=False)
    if made.returncode != 0:
        raise SystemExit(f"chaos: there is no other version to mix in: {made.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder
