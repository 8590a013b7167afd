"""``python -m clf.service.alive``: whether the service on this machine answers, for health checks without curl."""

import os
import sys
from http.client import HTTPConnection, HTTPException


def is_alive(port: int, *, timeout: float = 5.0) -> bool:
    """Ask ``/health``.

    Args:
        port: Where the service listens on this machine.
        timeout: Seconds to wait for an answer.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_alive(int(os.environ.get("CLF_PORT") or 8000)))
