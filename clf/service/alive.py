"""``python -m clf.service.alive``: whether the service on this machine answers, for health checks without curl."""

import os
import sys
from http.client import HTTPConnection, HTTPException

_SECONDS = 5.0  # to wait for an answer; Docker waits for 10


def is_alive(port: int) -> bool:
    """Ask ``/health`` of the service that listens on a port of this machine."""
    connection = HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not is_alive(int(os.environ.get("CLF_PORT") or 8000)))
