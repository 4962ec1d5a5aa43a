"""Check that a wheel carries what is not code: all that the sources have, the JavaScript client, and the licence."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACES = {ROOT / "src/unspool": "unspool", ROOT / "clients/js/src": "unspool/web/client"}
NEEDED = ("unspool/py.typed", "unspool/web/index.html", "unspool/web/client/index.js", "unspool/cli/__init__.py")


def main() -> None:
    """Exit with an error that names what is missing."""
    names = set(zipfile.ZipFile(sys.argv[1]).namelist())
    sources = {
        f"{place}/{path.relative_to(root).as_posix()}"
        for root, place in PLACES.items()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    missing = sorted((sources | set(NEEDED)) - names)
    if missing:
        sys.exit(f"error: the wheel lacks {', '.join(missing)}")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        sys.exit("error: the wheel lacks the licence")
    print(f"==> {Path(sys.argv[1]).name}: {len(names)} files, the web page, its client and py.typed among them")


if __name__ == "__main__":
    main()
