"""One file of scenarios, run against the gateway for tests and against the real one: what differs
is a fault of `arqon.testing`.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from live_stack import Stack
from scenario import Broken, Scenario, Target
from signing import Signer, with_issuer

import arqon.testing
from arqon.testing import _claims

FILE = json.loads(pathlib.Path(__file__).with_name("scenarios.json").read_text(encoding="utf-8"))
SCENARIOS: dict[str, list[dict[str, Any]]] = FILE["scenarios"]
SETTINGS: dict[str, dict[str, Any]] = FILE["settings"]


class Fake:
    """The gateway for tests."""

    def __init__(self, gateway: arqon.testing.Gateway) -> None:
        self._gateway = gateway
        self.url = gateway.url

    def token(self, claims: Mapping[str, object], *, algorithm: str, trusted: bool) -> str:
        return _claims.make(with_issuer(claims), algorithm=algorithm, trusted=trusted)

    async def order(self, what: str, tenant: str) -> None:
        if what == "drain":
            self._gateway.goaway(deadline=1.0)
        elif what == "suspend":
            self._gateway.suspend(tenant)
        else:
            self._gateway.resume(tenant)


class Real:
    """A real ArqonBus."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.url = stack.url
        self.token = Signer(stack).token

    async def order(self, what: str, tenant: str) -> None:
        if what == "drain":
            self._stack.terminate("shield")
        else:
            await asyncio.to_thread(self._stack.arq, "tenant", what, tenant)


#: Scenarios that run at a time: more would be told of presence late.
AT_ONCE = 12
#: Of the scenario that stops the gateway, and so comes after all others.
LAST = "the last: "

Outcomes = Mapping[str, BaseException | None]


async def run(target: Target, names: Sequence[str]) -> Outcomes:
    """Runs scenarios, many at a time, for most of what they do is to wait."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> BaseException | None:
        async with places:
            try:
                await Scenario(target, SCENARIOS[name]).run()
            except Exception as error:
                return error
            return None

    first = [name for name in names if not name.startswith(LAST)]
    outcomes = dict(zip(first, await asyncio.gather(*map(one, first)), strict=True))
    return outcomes | {name: await one(name) for name in names if name.startswith(LAST)}


def chosen(request: pytest.FixtureRequest, fixture: str) -> list[str]:
    """The scenarios that this run of pytest wants."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    return [str(item.callspec.params["name"]) for item in items if fixture in item.fixturenames]


@pytest.fixture(scope="module")
def of_fake(request: pytest.FixtureRequest) -> Outcomes:
    """What came of the scenarios against the gateway for tests."""
    settings = arqon.testing.Settings(
        tenants=frozenset({"acme", "globex", "hooli"}), **SETTINGS["testing"]
    )

    async def all_of_them() -> Outcomes:
        async with arqon.testing.gateway(settings=settings) as gateway:
            gateway.block(
                lambda message: (
                    message.room.startswith("judged.") and b"forbidden" in message.payload
                ),
                policy="words",
                reason="not here",
            )
            return await run(Fake(gateway), chosen(request, "of_fake"))

    return asyncio.run(all_of_them())


@pytest.fixture(scope="module")
def of_real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What came of the scenarios against a real ArqonBus."""
    with Stack(tmp_path_factory.mktemp("scenarios"), SETTINGS["manifest"]) as stack:
        stack.arq("tenant", "create", "hooli")
        stack.arq(
            *("policy", "add", "blocklist", "--words", "forbidden", "--tenant", "acme"),
            *("--room", "judged.>", "--name", "words", "--show-reason", "--reason", "not here"),
        )
        # A token of the tenants' first second would be refused, its time cut to whole ones.
        time.sleep(1)
        return asyncio.run(run(Real(stack), chosen(request, "of_real")))


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_gateway_for_tests(name: str, of_fake: Outcomes) -> None:
    report(of_fake[name])


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_real_one(name: str, of_real: Outcomes) -> None:
    report(of_real[name])


def report(outcome: BaseException | None) -> None:
    if isinstance(outcome, Broken):
        pytest.fail(str(outcome), pytrace=False)
    if outcome is not None:
        raise outcome
