"""A real ArqonBus for tests: nats-server, Shield and Brain on free ports of this machine.

`arq dev up` makes keys, tenants and configuration once; from then on the parts are children of this
process, so that a test can stop, kill, freeze and restart each.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
BRAIN = ROOT / "brain/_build/prod/rel/brain/bin/brain"
#: Seconds that a part may take to start, or to stop by itself.
PATIENCE = 60.0


class StackError(Exception):
    """A part did not do what it should."""


class Stack:
    """One ArqonBus with tenants `acme` and `globex`. Use it as a context manager.

    Args:
        folder: where its state goes; must be empty.
        manifest: keys of Shield's manifest to set, by section, for instance
            ``{"session": {"heartbeat_secs": 1}}``.
        brain: whether there is presence.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        manifest: Mapping[str, Mapping[str, object]] | None = None,
        *,
        brain: bool = True,
    ) -> None:
        self.folder = folder
        self._changes = manifest or {}
        self._with_brain = brain
        self._state = folder / "state"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.url = ""
        self.admin_url = ""
        self._brain_url = ""
        self._nats: tuple[str, int] = ("", 0)

    def __enter__(self) -> Stack:
        try:
            self._furnish()
            self.start_nats()
            if self._with_brain:
                self.start_brain()
            self.start_shield()
            if self._with_brain:
                self._until_http(f"{self._brain_url}/readyz", "brain")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- what tests ask of it

    def arq(self, *arguments: str, check: bool = True) -> str:
        """Runs `arq` against it; what it printed."""
        done = subprocess.run(
            [program("arq"), "--state", str(self._state), *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if check and done.returncode != 0:
            raise StackError(f"arq {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def token(
        self, user: str = "ada", tenant: str = "acme", *, ttl: str = "1h", **options: str
    ) -> str:
        """A token. `options` are those of `arq auth gen`, for instance ``join="public.*"``."""
        more = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        chosen = ["--tenant", tenant, "--user", user, f"--ttl={ttl}"]
        return self.arq("auth", "gen", *chosen, *more).strip()

    def signed(self, changes: Mapping[str, object], **options: str) -> str:
        """A token whose claims are changed, ``None`` taking one away, and which is signed anew."""
        header, claims = parts_of(self.token(**options))
        claims |= changes
        kept = {name: value for name, value in claims.items() if value is not None}
        return signed(self._state / "dev/token-key.pem", kept, str(header["kid"]))

    def metric(self, name: str) -> float:
        """The sum of a metric of Shield over its labels."""
        with urllib.request.urlopen(f"{self.admin_url}/metrics", timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
        values = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, flags=re.M)
        return sum(map(float, values))

    def log(self, part: str) -> str:
        """What `nats`, `shield` or `brain` has logged so far."""
        path = self.folder / f"{part}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- parts

    def start_nats(self) -> None:
        """Starts nats-server, and is back when it takes connections."""
        config = self._state / "nats/nats.conf"
        self._spawn("nats", [program("nats-server"), "-c", str(config)])

        def takes_connections() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(self._nats, timeout=1):
                return True
            return False

        self._until(takes_connections, "nats")

    def start_shield(self) -> None:
        """Starts Shield, and is back when it is ready."""
        self._spawn(
            "shield", [program("arqon-shield"), "--config", str(self._state / "config.toml")]
        )
        base = self.url.replace("ws://", "http://").removesuffix("/v1/socket")
        self._until_http(f"{base}/readyz", "shield")

    def start_brain(self) -> None:
        """Starts Brain; it is ready when it has heard Shield."""
        if not BRAIN.exists():
            raise StackError(f"there is no {BRAIN.relative_to(ROOT)}: `scripts/brain` builds it")
        self._spawn("brain", [str(BRAIN), "start"], ARQON_CONFIG=str(self._state / "brain-1.toml"))

    def stop_part(self, part: str) -> None:
        """Asks `nats`, `shield` or `brain` to stop in good order (SIGTERM)."""
        process = self._running.pop(part)
        process.terminate()
        self._ended(process, part)

    def kill(self, part: str) -> None:
        """Ends `nats`, `shield` or `brain` at once (SIGKILL)."""
        process = self._running.pop(part)
        self._signal(process, signal.SIGKILL)
        process.wait(PATIENCE)

    def terminate(self, part: str) -> None:
        """Sends SIGTERM and does not wait."""
        self._running[part].terminate()

    def wait(self, part: str) -> None:
        """Waits for the end of a part that was told to stop."""
        self._ended(self._running.pop(part), part)

    @contextlib.contextmanager
    def frozen(self, part: str) -> Iterator[None]:
        """`nats`, `shield` or `brain` hangs meanwhile: its connections stay and nothing moves."""
        process = self._running[part]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Stops what runs."""
        for part in ("shield", "brain", "nats"):
            process = self._running.pop(part, None)
            if process is None:
                continue
            # Tests leave clients connected; nothing here looks at a drain.
            self._signal(process, signal.SIGKILL if part == "brain" else signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                self._signal(process, signal.SIGKILL)
                process.wait(PATIENCE)

    # -- inside

    def _furnish(self) -> None:
        brains = [] if self._with_brain else ["--no-brain"]
        up = subprocess.Popen(
            [
                *(program("arq"), "--state", str(self._state)),
                *("dev", "up", "--native", "--quiet", "--json", "--port-base", "0", *brains),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert up.stdout is not None
        assert up.stderr is not None
        try:
            line = up.stdout.readline()
            up.terminate()
            if not line:
                raise StackError(f"arq dev up: {up.stderr.read()}")
            told = json.loads(line)
        finally:
            up.stdout.close()
            up.stderr.close()
            up.wait(PATIENCE)
        self.url, self.admin_url = told["shield_url"], told["admin_url"]
        self._brain_url = told["brains"][0]["url"] if self._with_brain else ""
        host, _, port = told["nats"][0].removeprefix("nats://").rpartition(":")
        self._nats = (host, int(port))
        manifest = self._state / "config.toml"
        text = manifest.read_text()
        for section, keys in self._changes.items():
            for key, value in keys.items():
                text = with_key(text, section, key, value)
        manifest.write_text(text)

    def _spawn(self, part: str, command: list[str], **extra: str) -> None:
        if part in self._running:
            raise StackError(f"{part} runs already")
        with (self.folder / f"{part}.log").open("ab") as log:
            self._running[part] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(**extra),
                # Brain's starter is a shell with children: a signal has to reach them all.
                start_new_session=True,
            )

    def _signal(self, process: subprocess.Popen[bytes], number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    def _ended(self, process: subprocess.Popen[bytes], part: str) -> None:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._signal(process, signal.SIGKILL)
            process.wait(PATIENCE)
            raise StackError(f"{part} did not stop: {self.log(part)[-2000:]}") from None

    def _until_http(self, url: str, part: str) -> None:
        def answers() -> bool:
            with (
                contextlib.suppress(OSError, urllib.error.HTTPError),
                urllib.request.urlopen(url, timeout=2) as answer,
            ):
                return bool(answer.status == 200)
            return False

        self._until(answers, part)

    def _until(self, ready: object, part: str) -> None:
        assert callable(ready)
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if self._running[part].poll() is not None or time.monotonic() > deadline:
                raise StackError(f"{part} is not ready: {self.log(part)[-2000:]}")
            time.sleep(0.02)


def program(name: str) -> str:
    """Where a program is; of this tree first."""
    places = [PROGRAMS / name, ROOT / ".tools/bin" / name]
    found = next((str(place) for place in places if place.exists()), None) or shutil.which(name)
    if found is None:
        raise StackError(f"there is no {name}: `scripts/dev` installs and builds it")
    return found


def environment(**extra: str) -> dict[str, str]:
    """This process's, with the tools of this tree in PATH."""
    path = f"{ROOT / '.tools/bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, **extra}


def with_key(text: str, section: str, key: str, value: object) -> str:
    """A manifest with one key set; the key stands in it already, be it as a comment."""
    head, found, rest = text.partition(f"\n[{section}]\n")
    if not found:
        raise StackError(f"the manifest has no section [{section}]")
    line = f"{key} = {json.dumps(value)}"
    body, count = re.subn(rf"^(# )?{re.escape(key)} = .*$", line, rest, count=1, flags=re.M)
    if not count or body.index(line) > (body + "\n[").index("\n["):
        raise StackError(f"the manifest has no key {section}.{key}")
    return f"{head}{found}{body}"


def signed(key: pathlib.Path, claims: Mapping[str, object], kid: str) -> str:
    """A JWT signed with RS256, with just these claims: `arq auth gen` makes none that lacks one."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    header = {"alg": "RS256", "typ": "JWT", "kid": kid}
    text = b".".join(_base64(json.dumps(part).encode()) for part in (header, claims))
    signature = loaded.sign(text, padding.PKCS1v15(), hashes.SHA256())
    return b".".join((text, _base64(signature))).decode()


def parts_of(token: str) -> tuple[dict[str, object], dict[str, object]]:
    """Header and claims of a JWT."""
    head, body, _ = token.split(".")
    pad = "=="
    return (
        json.loads(base64.urlsafe_b64decode(head + pad)),
        json.loads(base64.urlsafe_b64decode(body + pad)),
    )


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
