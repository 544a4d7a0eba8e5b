"""The suite and the processes that it starts reach no other machine, and the ways within this one are open."""

import asyncio
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import block_network
import pytest

from tests.cli import ROOT, python_path, run

AWAY = "192.0.2.1"  # of nobody, for documentation


def connect(address: tuple[str, int], family: int = socket.AF_INET, method: str = "connect") -> object:
    with socket.socket(family) as connection:
        connection.settimeout(0.2)
        return getattr(connection, method)(address)


def send(to: str) -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        return connection.sendto(b"x", (to, 9))


WAYS: dict[str, Callable[[str], object]] = {
    "connect": lambda to: connect((to, 9)),
    "connect_ex": lambda to: connect((to, 9), method="connect_ex"),
    "create_connection": lambda to: socket.create_connection((to, 9), 0.2),
    "datagram": send,
    "getaddrinfo": lambda to: socket.getaddrinfo(to, 80),
    "gethostbyname": socket.gethostbyname,
    "gethostbyname_ex": socket.gethostbyname_ex,
    "gethostbyaddr": socket.gethostbyaddr,
    "asyncio": lambda to: asyncio.run(asyncio.open_connection(to, 9)),
}


@pytest.mark.parametrize("to", [AWAY, "example.com", "127.0.0.1.example.com", "localhost.example.com"])
@pytest.mark.parametrize("way", WAYS)
def test_other_machines_cannot_be_reached(attempts: Path, way: str, to: str) -> None:
    with pytest.raises(block_network.NetworkBlockedError, match=f"{to}: tests reach nothing but this machine"):
        WAYS[way](to)
    assert attempts.read_text().endswith(f" {to}\n")
    attempts.write_text("")  # or this test fails


def test_no_address_can_be_reached_in_other_ways(attempts: Path) -> None:
    """Version 6, messages, and the class of the C library."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        with pytest.raises(block_network.NetworkBlockedError):
            connection.sendmsg([b"x"], [], 0, (AWAY, 9))
        with pytest.raises(block_network.NetworkBlockedError):
            super(socket.socket, connection).connect((AWAY, 9))
    with pytest.raises(block_network.NetworkBlockedError):
        connect(("2001:db8::1", 9), socket.AF_INET6)
    assert len(attempts.read_text().splitlines()) == 3
    attempts.write_text("")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", b"127.0.0.1", None])
def test_this_machine_is_looked_up(host: str | bytes | None) -> None:
    assert socket.getaddrinfo(host, 80)


def test_this_machine_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    families = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_UNIX: "socket"}
    for family, address in families.items():
        with socket.socket(family) as server, socket.socket(family) as connection:
            server.bind(address)
            server.listen()
            assert connection.connect_ex(server.getsockname()) == 0
            assert connection.getpeername() == server.getsockname()


TRY = f"""
import socket
try:
    socket.socket().connect(("{AWAY}", 9))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("folders", [None, [], ["elsewhere"]], ids=str)
def test_subprocesses_reach_nothing_else(attempts: Path, tmp_path: Path, folders: list[str] | None) -> None:
    """With the environment of this process, and with a path of their own."""
    environment = {**os.environ} if folders is None else {**os.environ, "PYTHONPATH": python_path(*folders)}
    command = [sys.executable, "-c", TRY]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"NetworkBlockedError socket.connect {AWAY}: tests reach nothing but this machine\n"
    assert attempts.read_text() == f"['-c']: socket.connect {AWAY}\n"
    attempts.write_text("")


def test_the_command_line_reaches_nothing_else(attempts: Path, tmp_path: Path) -> None:
    (tmp_path / "attempt.py").write_text(TRY)
    for options in ({}, {"PYTHONPATH": str(tmp_path)}):
        assert "NetworkBlockedError" in run(cwd=tmp_path, module="attempt", **options).stdout
    attempts.write_text("")


def tried_elsewhere(to: str) -> str:
    try:
        return str(socket.gethostbyname(to))
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_of_multiprocessing_reach_nothing_else(attempts: Path, method: str) -> None:
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(tried_elsewhere, ("example.com",)) == "NetworkBlockedError"
    attempts.write_text("")


def test_a_sitecustomize_of_the_machine_is_run_as_well(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('theirs')")
    environment = {**os.environ, "PYTHONPATH": python_path(tmp_path)}
    command = [sys.executable, "-c", "import block_network, sys; print('ours')"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "theirs\nours\n"


def test_an_error_that_is_caught_fails_a_test_all_the_same(attempts: Path, tmp_path: Path) -> None:
    lines = ["from tests.conftest import attempts", "def test_caught():", *[f"    {line}" for line in TRY.splitlines()]]
    (tmp_path / "test_caught.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_caught.py"]
    environment = {**os.environ, "PYTHONPATH": python_path(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and f"socket.connect {AWAY}" in done.stdout and "1 error" in done.stdout
    attempts.write_text("")
