"""The golden vectors of the protocol: what this SDK, and the gateway for tests, make of each."""

from __future__ import annotations

import json
import pathlib
import re
from dataclasses import dataclass, field

import pytest
from google.protobuf import json_format

from arqon import _wire
from arqon._proto import envelope_pb2 as pb
from arqon.errors import ServerGarbage
from arqon.testing import _frames
from arqon.testing._frames import Fault, decode_client

FOLDER = pathlib.Path(__file__).resolve().parents[3] / "proto/testdata"


@dataclass
class Vector:
    """One file, see `proto/testdata/README.md`."""

    name: str
    told: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    content: dict[str, object] | None = None

    @property
    def of_client(self) -> bool:
        return self.told["from"] == "client"


def read(path: pathlib.Path) -> Vector:
    text, has_content, content = path.read_text(encoding="utf-8").partition("\ncontent:\n")
    head, _, digits = text.partition("\nbytes:")
    vector = Vector(path.stem)
    for line in head.splitlines():
        if not line.startswith("#"):
            key, colon, value = line.partition(":")
            assert colon, f"{path.name}: {line!r}"
            vector.told[key] = value.strip()
    vector.data = bytes.fromhex(re.sub(r"#.*", "", digits))
    vector.content = json.loads(content) if has_content else None
    return vector


VECTORS = [read(path) for path in sorted(FOLDER.glob("*.txt"))]
FRAMES = [vector for vector in VECTORS if "from" in vector.told]
GOOD = [vector for vector in FRAMES if "canonical" in vector.told]
BAD = [vector for vector in FRAMES if "code" in vector.told]


def each(vectors: list[Vector]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=[vector.name for vector in vectors])


def test_the_vectors_are_all_understood() -> None:
    assert len(GOOD) > 30
    assert len(BAD) > 20
    known = {"from", "type", "canonical", "code", "room", "ref"}
    for vector in VECTORS:
        assert set(vector.told) <= known, vector.name
        assert ("from" in vector.told) != ("type" in vector.told), vector.name
        if "from" in vector.told:
            assert vector.told["from"] in ("client", "server"), vector.name
            assert ("canonical" in vector.told) != ("code" in vector.told), vector.name
            assert (vector.content is None) == ("code" in vector.told), vector.name


@each(GOOD)
def test_bytes_and_content_are_the_same_frame(vector: Vector) -> None:
    decoded = decode_client(vector.data) if vector.of_client else _wire.decode(vector.data)
    decoded.DiscardUnknownFields()
    assert vector.content is not None
    assert decoded == json_format.ParseDict(vector.content, pb.Envelope())
    told = json_format.MessageToDict(decoded, preserving_proto_field_name=True)
    assert told == vector.content
    encoded = decoded.SerializeToString(deterministic=True)
    assert (encoded == vector.data) == (vector.told["canonical"] == "yes")
    assert pb.Envelope.FromString(encoded) == decoded


TWINS: dict[str, object] = json.loads((FOLDER / "twins.json").read_text(encoding="utf-8"))


@each(GOOD)
def test_the_twin_in_json_is_what_protobuf_itself_tells(vector: Vector) -> None:
    """Shield's `arqon.v1+json` is canonical: a second implementation says the same."""
    frame = pb.Envelope.FromString(vector.data)
    frame.DiscardUnknownFields()
    assert json_format.MessageToDict(frame) == TWINS[vector.name]
    assert json_format.Parse(json.dumps(TWINS[vector.name]), pb.Envelope()) == frame


def test_there_is_no_other_twin() -> None:
    assert set(TWINS) == {vector.name for vector in GOOD}


@each([vector for vector in BAD if vector.of_client])
def test_the_gateway_for_tests_refuses_a_bad_frame_of_a_client(vector: Vector) -> None:
    with pytest.raises(Fault) as raised:
        decode_client(vector.data)
    fault = raised.value
    assert fault.code == vector.told["code"]
    assert fault.room == vector.told.get("room", "")
    assert fault.ref == int(vector.told.get("ref", "0"))
    answer = _frames.error(fault.code, fault.room, fault.ref)
    assert _wire.decode(answer.SerializeToString()).error.name == vector.told["code"]


@each([vector for vector in BAD if not vector.of_client])
def test_the_sdk_refuses_a_bad_frame_of_a_server(vector: Vector) -> None:
    with pytest.raises(ServerGarbage, match=vector.told["code"]):
        _wire.decode(vector.data)


@each([vector for vector in GOOD if not vector.of_client])
def test_a_frame_of_a_server_is_none_of_a_client(vector: Vector) -> None:
    with pytest.raises(Fault) as raised:
        decode_client(vector.data)
    assert raised.value.code == "UNKNOWN_OPCODE"


@each([vector for vector in GOOD if vector.of_client])
def test_a_frame_of_a_client_is_none_of_a_server(vector: Vector) -> None:
    with pytest.raises(ServerGarbage, match="UNKNOWN_OPCODE"):
        _wire.decode(vector.data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0b\x0c",  # a group of field 1
        b"\x0b",  # one that never ends
        b"\x0c",  # an end without a beginning
        b"\x08\x81\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",  # a number of eleven bytes
        b"\x12\xff\xff\xff\xff\x0f",  # a length beyond the frame
    ],
    ids=bytes.hex,
)
def test_bytes_that_are_no_envelope(data: bytes) -> None:
    with pytest.raises(Fault) as raised:
        decode_client(data)
    assert raised.value.code in ("ENVELOPE_UNDECODABLE", "UNKNOWN_OPCODE")
    with pytest.raises(ServerGarbage):
        _wire.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\x03\x12\x01a\x8a\x01\x02\x0a\x00",  # publish.ack as bytes
        b"\x08\x03\x12\x01a\x22\x04\x08\x01\x12\x00",  # the key of a header as a number
        b"\x08\x01\x12\x01a\x82\x01\x05\x08\x01\x15\x00\x00",  # cut
        b"\x08\x83\x80\x80\x80\x80\x80\x80\x80\x80\x02\x12\x01a",  # a number of 65 bits
    ],
    ids=bytes.hex,
)
def test_what_python_lets_pass_is_refused(data: bytes) -> None:
    with pytest.raises(Fault, match="ENVELOPE_UNDECODABLE"):
        decode_client(data)


def test_unknown_fields_of_every_wire_type_are_skipped() -> None:
    data = b"\x08\x02\x12\x01a"
    for unknown in (
        b"\xa0\x1f\x96\x01",
        b"\xa1\x1f" + bytes(8),
        b"\xa2\x1f\x02ab",
        b"\xa5\x1f" + bytes(4),
        b"\xa3\x1f\x08\x01\x13\x14\x12\x01a\xa4\x1f",
    ):
        assert decode_client(data + unknown).room == "a"
