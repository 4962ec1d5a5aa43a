"""Check that a wheel carries what is not code: everything of the package that the sources have, and the licence."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "unspool"
NEEDED = ("unspool/py.typed", "unspool/web/index.html", "unspool/cli/__init__.py")


def main() -> None:
    """Exit with an error that names what is missing."""
    names = set(zipfile.ZipFile(sys.argv[1]).namelist())
    sources = {
        f"unspool/{path.relative_to(PACKAGE).as_posix()}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    missing = sorted((sources | set(NEEDED)) - names)
    if missing:
        sys.exit(f"error: the wheel lacks {', '.join(missing)}")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        sys.exit("error: the wheel lacks the licence")
    print(f"==> {Path(sys.argv[1]).name}: {len(names)} files, the web page and py.typed among them")


if __name__ == "__main__":
    main()
