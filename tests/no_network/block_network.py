"""From its import on, this process reaches no other machine: whoever tries gets an error, and it is remembered,
because it may be caught.

An audit hook sees every socket of Python, also those of the C library, and cannot be taken away. Other programs that a
test starts, such as W&B's service, are not held back.
"""

import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILE = "NETWORK_ATTEMPTS"  # the variable with the file to remember attempts in, of all processes of a test
LOCAL = re.compile(rf"localhost|ip6-localhost|127(\.\d{{1,3}}){{3}}|0\.0\.0\.0|::1?|{re.escape(os.uname().nodename)}|")
SENDING = ("socket.connect", "socket.sendto", "socket.sendmsg")
LOOKING_UP = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")


class NetworkBlockedError(RuntimeError):
    """Something tried to reach another machine."""


def _check(event: str, address: Any) -> None:
    host = address[0] if isinstance(address, tuple) else address
    name = host.decode(errors="replace") if isinstance(host, bytes) else str(host or "")
    if not LOCAL.fullmatch(name):
        if path := os.environ.get(FILE):
            with Path(path).open("a") as file:
                file.write(f"{sys.argv}: {event} {name}\n")
        raise NetworkBlockedError(f"{event} {name}: tests reach nothing but this machine")


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in LOOKING_UP:
        _check(event, arguments[0])
    elif event in SENDING and arguments[0].family != socket.AF_UNIX and arguments[1] is not None:
        _check(event, arguments[1])  # None: to what the socket is connected to, which was asked before


def _before_names_are_looked_up(name: str) -> Callable[..., Any]:
    """The hook hears of `connect(("example.com", 80))` only when the name is an address."""
    method = getattr(socket.socket, name)

    def checked(self: socket.socket, *arguments: Any) -> Any:
        if self.family != socket.AF_UNIX and isinstance(arguments[-1], tuple):
            _check(f"socket.{name}", arguments[-1])
        return method(self, *arguments)

    return checked


for _name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, _name, _before_names_are_looked_up(_name))
sys.addaudithook(_hook)
