"""Whether every service of the Compose files is pinned, hardened, watched and explained.

Exit status 1 where something is wrong; each problem is a line.
"""

from __future__ import annotations

import pathlib
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose"
#: Who may see every key.
ADMINS = {"init", "tenants", "arq"}
#: The variable of a port on this machine, and its default.
PORT = re.compile(r"127\.0\.0\.1:(?:\$\{ARQON_\w+_PORT:-(\d+)\}|(\d+)):(\d+)")


@dataclass(frozen=True)
class File:
    """A Compose file of ours."""

    path: pathlib.Path
    text: str
    services: dict[str, dict[str, Any]]
    volumes: set[str]

    @classmethod
    def read(cls, name: str) -> File:
        """Reads it, with what services take from other files."""
        path = COMPOSE / name
        text = path.read_text()
        loaded = yaml.safe_load(text)
        services = {}
        for service, own in loaded["services"].items():
            base: dict[str, Any] = {}
            if extends := own.get("extends"):
                other = yaml.safe_load((COMPOSE / extends["file"]).read_text())
                base = other["services"][extends["service"]]
            services[service] = base | {
                key: value for key, value in own.items() if key != "extends"
            }
        return cls(path, text, services, set(loaded["volumes"]))

    def one_shots(self) -> set[str]:
        """Services that others wait for to end."""
        return {
            name
            for service in self.services.values()
            for name, wait in service.get("depends_on", {}).items()
            if wait["condition"] == "service_completed_successfully"
        }


def version() -> str:
    """The version of the workspace, which images and files carry."""
    manifest = tomllib.loads((ROOT / "Cargo.toml").read_text())
    return str(manifest["workspace"]["package"]["version"])


def rights(file: File, name: str, service: dict[str, Any]) -> Iterator[str]:
    """Nobody is root, or can become it, or writes where it need not."""
    image, _, tag = service["image"].rpartition(":")
    if not image or not re.match(r"v?\d+\.\d+\.\d+", tag):
        yield f"image {service['image']} is not pinned to a version"
    if image.startswith("arqonbus/") and tag != version():
        yield f"image {service['image']} is not of this version, {version()}"
    if image.startswith("arqonbus/") and service["build"]["target"] != image.removeprefix(
        "arqonbus/"
    ):
        yield f"{service['image']} is built from another target"
    if str(service.get("user", "0")).split(":")[0] in ("0", "root"):
        yield "runs as root"
    if service.get("read_only") is not True:
        yield "its root file system can be written to"
    if service.get("cap_drop") != ["ALL"] or service.get("privileged") or service.get("cap_add"):
        yield "keeps capabilities"
    if service.get("security_opt") != ["no-new-privileges:true"]:
        yield "may gain privileges"
    for key, value in service.get("environment", {}).items():
        if re.search("PASSWORD|SECRET|TOKEN|_KEY|SEED", key) or re.search(
            r"\bS[AOU][A-Z2-7]{50}", str(value)
        ):
            yield f"{key} is a secret in its environment"
    for volume in service.get("volumes", []):
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            if not (COMPOSE / source).exists() or mode != ["ro"]:
                yield f"{source} is not there, or may be written to"
        elif source not in file.volumes:
            yield f"there is no volume {source}"
        if source == "admin" and name not in ADMINS:
            yield "sees every key"
        if target == "/etc/arqon" and (source != name or mode != ["ro"]):
            yield f"its secrets are those of {source}, or can be written to"


def life(file: File, name: str, service: dict[str, Any]) -> Iterator[str]:
    """Each is watched and started again, or ends and is waited for."""
    health = service.get("healthcheck", {})
    if name in file.one_shots() or service.get("profiles") == ["tools"]:
        if service.get("restart") or health.get("disable") is not True:
            yield "ends, and so can neither be healthy nor started again"
    elif "test" not in health or service.get("restart") != "unless-stopped":
        yield "has no health check, or stays dead when it dies"
    waits = service.get("depends_on", {})
    if not isinstance(waits, dict):
        yield "waits for others to start, not to be ready"
        return
    for other, wait in waits.items():
        if other not in file.services or wait["condition"] == "service_started":
            yield f"does not wait for {other} to be ready"


def ports(file: File, service: dict[str, Any]) -> Iterator[str]:
    """Each port is of this machine only, on its own number, and says what it is for."""
    lines = [line.strip() for line in file.text.splitlines()]
    for port in service.get("ports", []):
        found = PORT.fullmatch(port)
        if not found:
            yield f"port {port} is not one of 127.0.0.1"
            continue
        if f'- "{port}"' in lines and not lines[lines.index(f'- "{port}"') - 1].startswith("#"):
            yield f"nothing says what port {port} is for"


def init(file: File) -> Iterator[str]:
    """Whoever has secrets of its own gets them from `init`, and the proxy knows every Shield."""
    made = file.services["init"]
    named = {
        word.partition("=")[2]
        for word in made["command"]
        if word.startswith(("--nats", "--shield", "--brain"))
    }
    mounted = {volume.split(":")[1].rpartition("/")[2] for volume in made["volumes"]} - {".arqon"}
    parts = {
        name
        for name, service in file.services.items()
        if re.match(r"(nats|shield|brain)(-\d)?$", name) and service
    }
    for what, names in (("makes the files of", named), ("mounts the volumes of", mounted)):
        if names != parts:
            yield f"{file.path.name}: init {what} {sorted(names)}, and there are {sorted(parts)}"
    if "proxy" in file.services:
        servers = set(
            re.findall(r"^    server (\S+) ", (COMPOSE / "proxy/haproxy.cfg").read_text(), re.M)
        )
        if servers != {name for name in parts if name.startswith("shield")}:
            yield f"haproxy.cfg: the Shields are not {sorted(servers)}"


def dockerfile() -> Iterator[str]:
    """It takes any builder, begins with what is pinned, and every image says what it is."""
    text = (COMPOSE / "Dockerfile").read_text()
    if re.search(r"^#\s*syntax=", text, re.M) or "--mount" in text:
        yield "Dockerfile: wants a builder that not everybody has"
    for image in re.findall(r"^ARG \w+_IMAGE=(\S+)$", text, re.M):
        if not re.search(r":\d+\.\d+", image):
            yield f"Dockerfile: {image} is not pinned to a version"
    if f"ARG VERSION={version()}" not in text:
        yield f"Dockerfile: VERSION is not {version()}"
    stages = re.split(r"^FROM ", text, flags=re.M)[1:]
    images = [stage for stage in stages if stage.startswith("base AS ")]
    if len(images) != 3:
        yield f"Dockerfile: {len(images)} images, and not 3"
    for stage in images:
        name = stage.split()[2]
        for wanted in (
            "USER 10001:10001",
            "HEALTHCHECK ",
            "ENTRYPOINT [",
            "image.title=",
            "image.description=",
        ):
            if wanted not in stage:
                yield f"Dockerfile: {name} has no {wanted.strip()}"


def profiles() -> Iterator[str]:
    """Plain `docker compose up` starts everything, `--profile core` what is needed."""
    if "COMPOSE_PROFILES=full\n" not in (ROOT / ".env").read_text():
        yield ".env: plain `docker compose up` does not start everything"
    core = {"init", "nats", "tenants", "brain", "shield"}
    for name, service in File.read("compose.yaml").services.items():
        wanted = ["core", "full"] if name in core else ["tools"] if name == "arq" else ["full"]
        if service.get("profiles") != wanted:
            yield f"compose.yaml: {name} is not in {wanted}"


def main() -> int:
    """Prints every problem, and how much was checked."""
    problems = [*dockerfile(), *profiles()]
    count = 0
    for name in ("compose.yaml", "compose.cluster.yaml"):
        file = File.read(name)
        problems += init(file)
        for service, settings in file.services.items():
            count += 1
            found = [
                *rights(file, service, settings),
                *life(file, service, settings),
                *ports(file, settings),
            ]
            problems += [f"{name}: {service}: {problem}" for problem in found]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{count} services of two Compose files, three images: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
