"""Where the server listens."""

from __future__ import annotations

import socket
import sys


def bound(host: str, port: int) -> socket.socket:
    """A listening place; OSError in one sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    if sys.platform != "win32":  # there it would take a port from another server
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        sock.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"--host {host} --port {port}: {reason}\nhint: --port 0 takes one that is free") from None
    return sock


def shown_host(host: str) -> str:
    """A host as a URL writes it."""
    return f"[{host}]" if ":" in host else host
