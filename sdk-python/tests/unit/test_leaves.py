"""What is generated from the registry of codes."""

from __future__ import annotations

import pickle

import pytest

import arqon
from arqon import _codes, _leaves, errors
from arqon._proto import envelope_pb2 as pb

RANGES = (
    (1000, 1999, errors.AuthError),
    (2000, 2999, errors.ProtocolError),
    (3000, 3499, errors.RoomError),
    (3500, 3599, errors.PresenceError),
    (3600, 3699, errors.PolicyError),
    (3700, 3799, errors.CapacityError),
    (4000, 4999, errors.ClosedByServer),
    (5000, 5999, errors.ClientError),
)


@pytest.mark.parametrize("entry", _codes.ENTRIES, ids=lambda entry: entry.name)
def test_each_code_has_a_class_that_says_the_same(entry: _codes.Entry) -> None:
    cls = _leaves.LEAVES[entry.number]
    assert (cls.code, cls.name, cls.retry, cls.help) == (
        entry.number,
        entry.name,
        entry.retry,
        entry.help,
    )
    assert cls.__name__.upper() == entry.name.replace("_", "")
    assert [base for low, high, base in RANGES if low <= entry.number <= high] == [
        base for _, _, base in RANGES if issubclass(cls, base)
    ]
    # The help is the docstring, however it is wrapped.
    assert " ".join((cls.__doc__ or "").split()).rstrip(".") == entry.help.rstrip(".")
    assert getattr(arqon, cls.__name__) is cls
    assert cls.__name__ in arqon.__all__


@pytest.mark.parametrize("cls", _leaves.LEAVES.values(), ids=lambda cls: cls.__name__)
def test_an_error_survives_pickling(cls: type[errors.ArqonError]) -> None:
    error = cls("what happened", retry_after=1.5)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert (str(again), again.retry_after, again.args) == (str(error), 1.5, error.args)
    assert "what happened" in str(error)
    assert error.help in str(error)


def test_numbers_and_names_are_unique() -> None:
    assert len({entry.number for entry in _codes.ENTRIES}) == len(_codes.ENTRIES)
    assert len({entry.name for entry in _codes.ENTRIES}) == len(_codes.ENTRIES)
    assert set(_leaves.LEAVES) == {entry.number for entry in _codes.ENTRIES}


def test_a_code_that_is_told_as_another_has_no_class() -> None:
    assert 1021 not in _leaves.LEAVES
    assert not hasattr(arqon, "TokenWrongKey")


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (arqon.ConnectTimeout, TimeoutError),
        (arqon.RequestTimeout, TimeoutError),
        (arqon.TokenSourceTimeout, TimeoutError),
        (arqon.Unreachable, ConnectionError),
        (arqon.ConnectionLost, ConnectionError),
        (arqon.UrlInvalid, ValueError),
        (arqon.PayloadTooLarge, ValueError),
        (arqon.RoomNameInvalid, ValueError),
    ],
)
def test_code_that_knows_only_python_catches_it(
    cls: type[errors.ArqonError], builtin: type[Exception]
) -> None:
    assert issubclass(cls, builtin)
    # Whoever catches the built-in class gets a text, not the operating system's pair.
    assert str(cls()).startswith(f"{cls.name} ({cls.code}): ")


def test_only_opening_a_session_raises_a_connect_error() -> None:
    opening = {code for code, cls in _leaves.LEAVES.items() if issubclass(cls, arqon.ConnectError)}
    assert opening == set(range(5001, 5009))


def test_retryable_is_what_the_registry_says() -> None:
    assert arqon.Unreachable().retryable
    assert not arqon.TokenExpired().retryable
    assert not arqon.UrlInvalid().retryable
    assert arqon.GoingAway().retryable
    assert not arqon.TenantGone().retryable


def test_the_uncertain_publish_has_its_id() -> None:
    assert arqon.PublishUncertain().twist_id == ""


def test_envelopes_are_known_by_their_path() -> None:
    # A mere envelope.proto could meet another library's in the pool of the process.
    assert pb.DESCRIPTOR.name == "arqon/v1/envelope.proto"
