"""Print a port of the loopback interface that is free: the one that is asked for, else 0, for any."""

from __future__ import annotations

import socket
import sys


def main() -> None:
    """Try to take the port as a server would."""
    port = int(sys.argv[1])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            print(f"port {port} is taken: choosing another", file=sys.stderr)
            port = 0
    print(port)


if __name__ == "__main__":
    main()
