"""A place where a page can be followed: a copy of this tree, and ports of its own.

Pages speak of the ports that ArqonBus has by default. In a network namespace they are free,
whatever else runs on this machine; where no namespace can be had, they have to be free here.
"""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# Built or installed here, and not copied.
LINKED = {
    "target": Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")),
    ".tools": ROOT / ".tools",
    "brain/_build": ROOT / "brain/_build",
    "arq/console/node_modules": ROOT / "arq/console/node_modules",
    # Where npx looks first.
    "node_modules": ROOT / ".tools/npm/node_modules",
}
PORTS = [4222, 8080, 8081, 8082, 8083, 8222]
# What brings up the loopback interface: SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP.
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1


class NoPlaceError(Exception):
    """Pages cannot be followed here; the text says why."""


def namespace() -> list[str]:
    """The words before a command that give it a network of its own; none where that is refused."""
    for words in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
        try:
            if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
                return words
        except FileNotFoundError:
            break
    return []


def raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        (flags,) = struct.unpack_from("H", fcntl.ioctl(any_socket, GET_FLAGS, request), 16)
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH14s", b"lo", flags | UP, b""))


def demand_ports() -> None:
    """Refuses to begin where a page would meet another server on its ports."""
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise NoPlaceError(
                    f"port {port} is taken, and no network namespace can be had\n"
                    "hint: stop what runs there, or run this as root"
                ) from error


def copy_tree(to: Path) -> None:
    """What git knows of this tree, as it is now, and links to what was built."""
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        source = ROOT / name
        # Deleted and not committed yet.
        if not source.is_symlink() and not source.exists():
            continue
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    for name, source in LINKED.items():
        if source.exists() and not (to / name).exists():
            (to / name).symlink_to(source.resolve())


def environment(place: Path) -> dict[str, str]:
    """What the shell of a reader has who ran `scripts/setup --test`; nothing of this shell."""
    tools = ROOT / ".tools"
    path = [
        place / "target/debug",
        tools / "bin",
        tools / "npm/node_modules/.bin",
        tools / "python/bin",
    ]
    kept = {
        name: os.environ[name]
        for name in ("USER", "CARGO_HOME", "RUSTUP_HOME")
        if name in os.environ
    }
    return kept | {
        "PATH": ":".join([*map(str, path), os.environ["PATH"]]),
        "HOME": str(place),
        "TMPDIR": str(place / "tmp"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
    }
