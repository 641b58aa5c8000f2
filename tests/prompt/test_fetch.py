"""Addresses: refused unless asked for, and then only what is public, small, in time and of the right type."""

from __future__ import annotations

import http.server
import io
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ingot.prompt.media import fetch as module
from ingot.prompt.media import open_image
from ingot.prompt.media.fetch import _is_public, fetch

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


class Server(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        getattr(self, "_" + self.path.strip("/").split("?")[0].split("%")[0])()

    def _answer(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _image(self) -> None:
        self._answer(body=png(), Content_Type="image/png", Content_Length=str(len(png())))

    def _page(self) -> None:
        self._answer(body=b"<html>", Content_Type="text/html; charset=utf-8")

    def _missing(self) -> None:
        self._answer(404)

    def _huge(self) -> None:
        self._answer(Content_Type="image/png", Content_Length="999999999999")

    def _endless(self) -> None:
        self._answer(Content_Type="image/png", body=bytes(3000))

    def _cut(self) -> None:
        self._answer(Content_Type="image/png", Content_Length="500", body=bytes(100))

    def _loop(self) -> None:
        self._answer(302, Location="/loop")

    def _there(self) -> None:
        self._answer(301, Location="/image?a=b c")

    def _file(self) -> None:
        self._answer(302, Location="file:///etc/passwd")

    def _inside(self) -> None:
        self._answer(302, Location="http://localhost:1/secret")

    def _drip(self) -> None:
        self._answer(Content_Type="image/png")
        for _ in range(400):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.1)

    def _quiet(self) -> None:
        time.sleep(1.5)

    def log_message(self, *what: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    found.daemon_threads = True
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()


def test_a_picture_comes_where_it_is_allowed(server: str) -> None:
    with pytest.raises(ValueError, match=r"is an address; .*\nhint: allow_urls=True"):
        open_image(f"{server}/image")
    assert np.array_equal(open_image(f"{server}/image", allow_urls="private"), PIXELS)
    assert np.array_equal(open_image(f"{server}/there", allow_urls="private"), PIXELS)
    assert Server.asked[-1] == "/image?a=b%20c"


def test_an_address_of_this_machine_is_not_even_asked(server: str) -> None:
    asked = len(Server.asked)
    for host in ("127.0.0.1", "localhost", "127.1", "0x7f000001", "[::ffff:127.0.0.1]"):
        url = server.replace("127.0.0.1", host) + "/image"
        with pytest.raises(ValueError, match=r"which is not a public one\nhint: allow_urls='private'|is not known"):
            open_image(url, allow_urls=True)
    assert len(Server.asked) == asked


def test_a_redirect_is_looked_at_again(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server counts as public here; where it sends us to does not."""
    here = server.split(":")[1].strip("/")
    monkeypatch.setattr(module, "_is_public", lambda address: address == here)
    monkeypatch.setattr(socket, "getaddrinfo", other_localhost(socket.getaddrinfo))
    with pytest.raises(ValueError, match=r"the host 'localhost' has the address .*, which is not a public one"):
        fetch(f"{server}/inside", 100, ("image/",))


def other_localhost(real: Any) -> Any:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 1))]
    return lambda host, *rest, **named: answer if host == "localhost" else real(host, *rest, **named)


REFUSED = {
    "page": "is text/html; image/ is needed",
    "missing": "answers 404 Not Found",
    "huge": "has 999,999,999,999 bytes; 0 MB are the most",
    "endless": "has more than 0 MB, which are the most",
    "cut": "cannot be fetched: IncompleteRead",
    "loop": "comes after 5 redirects, which are the most",
    "file": "'file:///etc/passwd' is not fetched; http://... and https://... are",
}


@pytest.mark.parametrize("path", REFUSED)
def test_what_a_server_may_not_do(path: str, server: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[path]):
        fetch(f"{server}/{path}", 2000, ("image/",), private=True)


def test_a_slow_server_is_left(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.5)
    with pytest.raises(ValueError, match=r"gave no answer in 0\.5 seconds"):
        fetch(f"{server}/quiet", 2000, ("image/",), private=True)
    monkeypatch.setattr(module, "QUIET_SECONDS", 30)
    monkeypatch.setattr(module, "SECONDS", 1)
    begin = time.monotonic()
    with pytest.raises(ValueError, match="cannot be fetched: it takes more than 1 seconds"):
        fetch(f"{server}/drip", 2000, ("image/",), private=True)
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://example.org/a.png", "is not fetched; http"),
        ("http:///a.png", "is not fetched; http"),
        ("http://me:secret@example.org/a.png", "holds a user's name"),
        ("http://example.org:99999/a.png", "is no address"),
        ("http://example.org/a\r\nHost: b", "is not fetched: it holds"),
        ("http://[::1/a.png", "is no address"),
        ("http://" + "a" * 70 + ".example/", "is not known"),
    ],
)
def test_what_is_no_address(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fetch(url, 2000, ("image/",))


def test_public_addresses() -> None:
    private = ("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0")
    wrapped = ("::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::a00:1", "ff02::1")
    assert not any(map(_is_public, (*private, *wrapped)))
    assert all(map(_is_public, ("93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822")))
