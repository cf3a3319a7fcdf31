"""``python -m arqon``: hear a room, publish to it, see who is there.

Data goes to standard output, everything else to standard error. Exit status: 0 done, also where
whoever read the output has left; 1 an error, told in a line and a hint; 2 wrong usage; 130 ended
by Ctrl-C; 143 and 129 ended by SIGTERM and SIGHUP.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import errno
import io
import json
import math
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from . import (
    ArqonError,
    AuthError,
    Event,
    Gap,
    Member,
    Message,
    PublishFailed,
    RoomError,
    RoomLeft,
    ServerProblem,
    State,
    StateChanged,
    TokenRefreshFailed,
    __version__,
    sync,
)

#: The environment variable that may hold the token: a command line is seen by other users.
TOKEN_VARIABLE = "ARQON_TOKEN"
#: The longest message that is read from standard input, in bytes; the platform takes less.
MAX_INPUT = 1024 * 1024

#: Seconds that a token command lives on when the library no longer waits for it, so that it is the
#: library that says it was late.
_COMMAND_GRACE = 1.0
#: The most that it lives, in seconds: what waits for it takes no number beyond 2^31 milliseconds.
_COMMAND_LONGEST = 24 * 3600.0
_JWT = re.compile(r"eyJ[\w-]{5,}(?:\.[\w-]*)*", flags=re.ASCII)

_DESCRIPTION = f"""\
Hear a room, publish to it, see who is there.

The token comes from --token-command, --token-file, --token or the environment
variable {TOKEN_VARIABLE}. A command or a file is asked again when the token expires.
"""
_EPILOG = f"""\
examples:
  export {TOKEN_VARIABLE}=$(arq auth gen --user ada)
  python -m arqon sub ws://127.0.0.1:8080 lobby
  python -m arqon pub ws://127.0.0.1:8080 lobby "hello" --ack
  python -m arqon presence ws://127.0.0.1:8080 lobby --watch

Data goes to standard output, everything else to standard error.
exit status: 0 done, 1 an error, 2 wrong usage, 130 ended by Ctrl-C
"""


class Parser(argparse.ArgumentParser):
    """Tells what is wrong as every other error is told."""

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        raise SystemExit(_fail(message, f"{self.prog} --help", status=2))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(
        prog="python -m arqon",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"arqon-sdk {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="sub|pub|presence")

    common = Parser(add_help=False)
    common.add_argument(
        "url", type=_utf8, help="wss://HOST[:PORT]; the path /v1/socket may be left out"
    )
    common.add_argument("room", type=_utf8, help="the room, for instance lobby")
    source = common.add_mutually_exclusive_group()
    source.add_argument("--token", help="the JWT; others on this machine can see it")
    source.add_argument("--token-file", type=pathlib.Path, help="a file that holds the JWT")
    source.add_argument("--token-command", help="a command that prints the JWT")
    common.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        help="seconds for each answer, and for each token [default: 10]",
    )

    sub = commands.add_parser("sub", parents=[common], help="hear a room")
    sub.add_argument("--json", action="store_true", help="one JSON object a line")
    sub.add_argument("--count", type=_positive, help="end after so many messages")
    pub = commands.add_parser("pub", parents=[common], help="publish to a room")
    pub.add_argument("message", help="the message; - reads standard input, to its end")
    pub.add_argument("--lines", action="store_true", help="with -: each line is a message")
    pub.add_argument("--ack", action="store_true", help="wait until the platform has each message")
    pub.add_argument("--json", action="store_true", help='with --ack: {"twist_id": …} a line')
    pub.add_argument(
        *("-H", "--header"),
        action="append",
        default=[],
        type=_header,
        metavar="NAME=VALUE",
        help="a header of the message; may be given again",
    )
    presence = commands.add_parser("presence", parents=[common], help="see who is in a room")
    presence.add_argument("--json", action="store_true", help="one JSON object a line")
    what = presence.add_mutually_exclusive_group()
    what.add_argument("--watch", action="store_true", help="go on: who comes, changes, leaves")
    what.add_argument("--count", action="store_true", help="only how many there are")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal's encoding lacks is no reason to end.
            stream.reconfigure(errors="backslashreplace")
    it = parser().parse_args(arguments)
    run = {"sub": _sub, "pub": _pub, "presence": _presence}[it.command]
    try:
        run(it)
    except ArqonError as error:
        hint = error.help
        if isinstance(error, AuthError | RoomError):
            hint += ". What a token holds: arq auth inspect TOKEN"
        return _fail(f"{error.name} ({error.code}): {error.message}", hint)
    except _UsageError as error:
        return _fail(str(error), "python -m arqon --help", status=2)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # Windows tells a closed pipe by EINVAL.
        if not isinstance(error, BrokenPipeError) and error.errno != errno.EINVAL:
            return _fail(str(error), "is standard input or output still there?")
        # Whoever read the output has ended, as `head` does. Python would complain at exit.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


class _UsageError(Exception):
    """What was asked for cannot be."""


@contextlib.contextmanager
def _connect(it: argparse.Namespace, on_event: Callable[[Event], None]) -> Iterator[sync.Client]:
    token = _token(it)
    try:
        # With arqon.sync, waiting for the keyboard or for whoever reads the output holds up
        # nothing.
        with sync.connect(
            it.url,
            token=token,
            open_timeout=it.timeout,
            request_timeout=it.timeout,
            token_timeout=it.timeout,
            on_event=on_event,
        ) as bus:
            yield bus
    finally:
        if isinstance(token, _Command):
            token.close()


def _sub(it: argparse.Namespace) -> None:
    heard = 0
    with _connect(it, _tell) as bus:
        room = bus.join(it.room)
        _note(f"listening to {room.name}; Ctrl-C ends")
        for event in room.events():
            _print(json.dumps(_event_json(event)) if it.json else _event_text(event))
            heard += isinstance(event, Message)
            if heard == it.count:
                break


def _pub(it: argparse.Namespace) -> None:
    if it.lines and it.message != "-":
        raise _UsageError("--lines goes with -, standard input")
    if it.json and not it.ack:
        raise _UsageError("--json goes with --ack")
    refused: list[ArqonError] = []

    def tell(event: Event) -> None:
        if isinstance(event, PublishFailed) and not refused:
            refused.append(event.error)
        _tell(event)

    if it.message != "-":
        messages = iter([_payload(it.message)])
    elif it.lines:
        messages = _lines()
    else:
        # Read before it connects: nobody knows how long that takes.
        messages = iter([_all()])
    headers = dict(it.header)
    with _connect(it, tell) as bus:
        room = bus.join(it.room, echo=False)
        for message in messages:
            if not it.ack:
                room.publish(message, headers=headers)
            else:
                receipt = room.publish(message, ack=True, headers=headers)
                told = {"twist_id": receipt.twist_id}
                _print(json.dumps(told) if it.json else receipt.twist_id)
        # A refusal of what was published without --ack comes before the answer to this.
        bus.ping()
    # Closing waited for the events.
    if refused:
        raise refused[0]


def _presence(it: argparse.Namespace) -> None:
    with _connect(it, _tell) as bus:
        if it.watch:
            for change in bus.join(it.room, presence="watch").presence:
                if it.json:
                    _print(json.dumps({"change": change.kind, **_member_json(change.member)}))
                else:
                    sign = {"join": "+", "update": "~", "leave": "-"}[change.kind]
                    _print(f"{sign} {_member_text(change.member)}")
            return
        presence = bus.join(it.room).presence
        if it.count:
            count = presence.get_count()
            _print(json.dumps({"count": count}) if it.json else str(count))
            return
        members = presence.get()
        if not members and (count := presence.get_count()):
            _note(f"{count} users: too many for the platform to tell who they are")
        for member in sorted(members, key=lambda member: member.user):
            _print(json.dumps(_member_json(member)) if it.json else _member_text(member))


# -- standard input


def _all() -> bytes:
    data = _stdin().read(MAX_INPUT + 1)
    if len(data) > MAX_INPUT:
        raise _UsageError(f"standard input is over {MAX_INPUT} bytes")
    return data


def _lines() -> Iterator[bytes]:
    while line := _stdin().readline(MAX_INPUT + 1):
        if len(line) > MAX_INPUT:
            raise _UsageError(f"a line is over {MAX_INPUT} bytes")
        yield line.rstrip(b"\r\n")


def _stdin() -> io.BufferedReader:
    if sys.stdin is None or not isinstance(sys.stdin.buffer, io.BufferedReader):
        raise _UsageError("there is no standard input")
    return sys.stdin.buffer


# -- tokens


def _token(it: argparse.Namespace) -> str | Callable[[], str]:
    if it.token_command is not None:
        return _Command(it.token_command, it.timeout)
    if it.token_file is not None:
        return lambda: _from_file(it.token_file)
    if it.token is not None and not it.token.strip():
        # What a failed $(...) leaves; the variable may hold another's.
        raise _UsageError("--token is empty")
    token: str | None = it.token or os.environ.get(TOKEN_VARIABLE)
    if not token:
        raise _UsageError(
            f"no token: give --token-command, --token-file, --token or {TOKEN_VARIABLE}"
        )
    return token


class _Command:
    """A command that prints a token, run anew for each. None that was too late outlives this."""

    def __init__(self, line: str, timeout: float) -> None:
        try:
            # Windows has its own rules for a command line, and takes it whole.
            self._words = line if os.name == "nt" else shlex.split(line)
        except ValueError as error:
            raise _UsageError(f"--token-command is no command: {error}") from None
        if not self._words:
            raise _UsageError("--token-command is empty")
        # A group of its own can be ended with all that the command started, but is cut off from the
        # terminal, where the command may have a question.
        self._own_group = not _has_terminal()
        self._timeout = min(timeout + _COMMAND_GRACE, _COMMAND_LONGEST)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        # Whatever was started before `_closed` is set, is ended.
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            if self._closed:
                raise RuntimeError("the program ends")
            process = subprocess.Popen(
                self._words,
                # Standard input is for messages.
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                # What it says belongs to the user, as it is written: a question, for instance.
                # Nothing of it gets into an error of ours, for a token may be in it.
                stderr=None if sys.stderr is not None else subprocess.DEVNULL,
                start_new_session=self._own_group,
            )
            self._running.add(process)
        try:
            with process:
                try:
                    told, _ = process.communicate(timeout=self._timeout)
                except subprocess.TimeoutExpired:
                    self._end(process)
                    raise RuntimeError("the token command was too late, and ended") from None
        finally:
            with self._lock:
                self._running.discard(process)
        if process.returncode != 0:
            raise RuntimeError(f"the token command ended with status {process.returncode}")
        return told.decode(errors="replace")

    def close(self) -> None:
        """Ends what still runs."""
        with self._lock:
            self._closed = True
            for process in self._running:
                self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if sys.platform == "win32":
            # Windows knows no groups of processes; this ends the tree.
            with contextlib.suppress(OSError):
                subprocess.run(
                    ["taskkill", "/T", "/F", "/PID", str(process.pid)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=False,
                )
        elif self._own_group:
            # macOS refuses where all of them have ended and nobody has asked for their status yet.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()


def _has_terminal() -> bool:
    """Whether there is a terminal that a command could ask at."""
    if sys.platform == "win32":
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _from_file(file: pathlib.Path) -> str:
    return file.read_text(encoding="utf-8")


# -- printing


def _tell(event: Event) -> None:
    if isinstance(event, StateChanged):
        if event.state is State.RECONNECTING:
            _note(f"reconnecting: {event.error or 'the server asked for it'}")
        elif event.previous is State.RECONNECTING and event.state is State.CONNECTED:
            _note("connected again")
    elif isinstance(event, RoomLeft | ServerProblem | TokenRefreshFailed):
        _note(str(event.error))


def _note(text: str) -> None:
    # With standard error closed, print() would take standard output, which is for data.
    if sys.stderr is not None:
        print(_shown(_redacted(text)), file=sys.stderr, flush=True)


def _redacted(text: str) -> str:
    """Text without tokens: one in the wrong place is in the error about that place."""
    return _JWT.sub("eyJ...", text)


def _print(line: str) -> None:
    # Each line at once, for whoever reads a pipe.
    print(line, flush=True)


def _shown(text: str) -> str:
    """Text in one line: what could move the cursor or turn the text is shown as an escape."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _event_text(event: Message | Gap) -> str:
    if isinstance(event, Gap):
        missed = "some" if event.missed is None else str(event.missed)
        return f"-- {missed} messages may be missing: {event.reason.value}"
    text = _text(event.payload)
    shown = repr(event.payload) if text is None else _shown(text)
    return f"{_shown(event.sender.user)}: {shown}"


def _event_json(event: Message | Gap) -> dict[str, object]:
    if isinstance(event, Gap):
        return {"gap": event.reason.value, "room": event.room, "missed": event.missed}
    told: dict[str, object] = {
        "room": event.room,
        "user": event.sender.user,
        "session": event.sender.session,
        "twist_id": event.twist_id,
        "timestamp": event.timestamp.isoformat(),
        "headers": dict(event.headers),
    }
    text = _text(event.payload)
    if text is None:
        told["payload_base64"] = base64.b64encode(event.payload).decode()
    else:
        told["payload"] = text
    return told


def _text(payload: bytes) -> str | None:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


def _member_text(member: Member) -> str:
    meta = " ".join(f"{key}={value}" for key, value in sorted(member.meta.items()))
    sessions = f" ({member.session_count} sessions)" if member.session_count > 1 else ""
    return _shown(f"{member.user}{sessions}  {meta}".rstrip())


def _member_json(member: Member) -> dict[str, object]:
    sessions = [
        {
            "session": session.session,
            "meta": dict(session.meta),
            "joined_at": session.joined_at.isoformat(),
            "last_active_at": session.last_active_at.isoformat(),
        }
        for session in member.sessions
    ]
    return {"user": member.user, "session_count": member.session_count, "sessions": sessions}


def _fail(problem: str, hint: str, status: int = 1) -> int:
    with contextlib.suppress(BrokenPipeError):
        _note(f"error: {problem}")
        if hint and hint not in problem:
            _note(f"hint: {hint}")
    return status


# -- arguments


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        value = float(text)
        if value > 0 and math.isfinite(value):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")


def _positive(text: str) -> int:
    with contextlib.suppress(ValueError):
        value = int(text)
        if value > 0:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no UTF-8") from None
    return text


def _payload(text: str) -> bytes:
    try:
        # A payload is bytes, and a POSIX shell gives them, whether they are text or not.
        return text.encode() if os.name == "nt" else os.fsencode(text)
    except UnicodeEncodeError:
        raise _UsageError(f"the message {text!r} is no UTF-8") from None


def _header(text: str) -> tuple[str, str]:
    name, found, value = _utf8(text).partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _leave(number: int, frame: object) -> NoReturn:
    # As a shell tells it. What is open is closed on the way out.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, _leave)
        signal.signal(signal.SIGHUP, _leave)
    sys.exit(main())
