"""An http(s) address to bytes, for those who asked for it: public addresses, a few redirects, a bounded answer.

Every name is resolved once and every address of it looked at; the connection then goes to the address that was looked
at, so that a name server cannot say one thing to the check and another to the connection. Proxies of the environment
are not used.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from urllib.parse import SplitResult, quote, urljoin, urlsplit

REDIRECTS = 5  # taste: a link shortener, https, www, a content network
SECONDS = 60  # of the whole
QUIET_SECONDS = 10  # without a byte
PORTS = {"http": 80, "https": 443}


def fetch(url: str, most: int, types: Sequence[str], private: bool = False) -> bytes:
    """The body behind an http or https address: at most `most` bytes, of a Content-Type that begins as one of `types`.

    `private` allows addresses that are not on the public Internet: this machine, the network around it. ValueError in
    one sentence for whatever is refused or fails.
    """
    deadline = time.monotonic() + SECONDS
    for _ in range(REDIRECTS + 1):
        connection = _connection(_checked(url), private)
        watch = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, [connection])
        watch.daemon = True
        watch.start()  # a timeout of the socket counts from byte to byte, and a server may drip
        try:
            answer = _asked(connection, url)
            if answer.status not in (301, 302, 303, 307, 308):
                body = _body(answer, url, most, types)
                if time.monotonic() > deadline:  # cut, which may look like an end
                    raise ConnectionAbortedError
                return body
            url = urljoin(url, _quoted(answer.getheader("Location") or ""))
        except TimeoutError:
            raise ValueError(f"{_shown(url)} gave no answer in {QUIET_SECONDS} seconds") from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            late = f"it takes more than {SECONDS} seconds" if time.monotonic() > deadline else _reason(error)
            raise ValueError(f"{_shown(url)} cannot be fetched: {late}") from None
        finally:
            watch.cancel()
            connection.close()
    raise ValueError(f"{_shown(url)} comes after {REDIRECTS} redirects, which are the most")


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{_shown(url)} is no address: {error}") from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError(f"{_shown(url)} is not fetched; http://... and https://... are")
    if parts.username is not None or port == 0 or any(ord(c) <= 32 for c in url):
        raise ValueError(f"{_shown(url)} is not fetched: it holds a user's name, port 0 or a blank")
    return parts


def _connection(parts: SplitResult, private: bool) -> _Plain:
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    address = _address(host, port, private)
    if parts.scheme == "https":
        return _Secure(host, port, address)
    return _Plain(host, port, address)


def _address(host: str, port: int, private: bool) -> str:
    """The first address of a host, if none of them is private."""
    try:
        found = [entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        raise ValueError(f"the host {host!r} is not known") from None
    for address in found:
        if not private and not _is_public(str(address)):
            raise ValueError(
                f"the host {host!r} has the address {address}, which is not a public one\n"
                "hint: allow_urls='private' allows addresses of your own network"
            )
    return str(found[0])


def _is_public(text: str) -> bool:
    """Also of the IPv4 address that an IPv6 one may wrap (::ffff:127.0.0.1, 6to4, NAT64)."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
    return address.is_global and not address.is_multicast


def _cut(connection: _Plain) -> None:
    if connection.live is not None:
        with contextlib.suppress(OSError):
            connection.live.shutdown(socket.SHUT_RDWR)


class _Plain(http.client.HTTPConnection):
    """A connection to an address that was looked at, whatever its host resolves to by now."""

    def __init__(self, host: str, port: int, address: str) -> None:
        super().__init__(host, port, timeout=QUIET_SECONDS)
        self._address = address
        self.live: socket.socket | None = None  # http.client forgets its own while an answer is still read

    def connect(self) -> None:
        self.live = self.sock = socket.create_connection((self._address, self.port), self.timeout)


class _Secure(_Plain):
    """The same under TLS, with the certificate of the host."""

    default_port = PORTS["https"]

    def connect(self) -> None:
        super().connect()
        self.live = self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _asked(connection: http.client.HTTPConnection, url: str) -> http.client.HTTPResponse:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request("GET", _quoted(target), headers={"User-Agent": "ingot", "Accept-Encoding": "identity"})
    return connection.getresponse()


def _quoted(target: str) -> str:
    return quote(target, safe="%/:=&?~#+!$,;'@()*[]")


def _body(answer: http.client.HTTPResponse, url: str, most: int, types: Sequence[str]) -> bytes:
    if answer.status != 200:
        raise ValueError(f"{_shown(url)} answers {answer.status} {_clean(answer.reason)}")
    kind = (answer.getheader("Content-Type") or "").partition(";")[0].strip().lower()
    if not kind.startswith(tuple(types)):
        raise ValueError(f"{_shown(url)} is {_clean(kind) or 'of no type'}; {' or '.join(types)} is needed")
    length = answer.getheader("Content-Length") or ""
    if length.isdigit() and int(length) > most:
        raise ValueError(f"{_shown(url)} has {int(length):,} bytes; {most >> 20} MB are the most")
    pieces, size = [], 0
    while piece := answer.read1(1 << 16):
        size += len(piece)
        pieces.append(piece)
        if size > most:
            raise ValueError(f"{_shown(url)} has more than {most >> 20} MB, which are the most")
    if length.isdigit() and size < int(length):
        raise http.client.IncompleteRead(b"", int(length) - size)
    return b"".join(pieces)


def _reason(error: Exception) -> str:
    return _clean(getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _clean(text: str) -> str:
    """What a server says goes to a person: one short line."""
    return "".join(c if c.isprintable() else "?" for c in text)[:100]


def _shown(url: str) -> str:
    return repr(url if len(url) <= 80 else url[:77] + "...")
