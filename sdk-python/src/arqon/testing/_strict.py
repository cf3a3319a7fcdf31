"""What Python's Protobuf lets pass and the real gateway does not: a known field in another wire
type, which Python keeps as an unknown field; and a number of more than 64 bits, which it cuts.
"""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_VARINT, _FIXED64, _BYTES, _START, _END, _FIXED32 = range(6)

_WIRE_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_FIXED64: _FIXED64,
    FieldDescriptor.TYPE_SFIXED64: _FIXED64,
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
    FieldDescriptor.TYPE_FIXED32: _FIXED32,
    FieldDescriptor.TYPE_SFIXED32: _FIXED32,
    FieldDescriptor.TYPE_STRING: _BYTES,
    FieldDescriptor.TYPE_BYTES: _BYTES,
    FieldDescriptor.TYPE_MESSAGE: _BYTES,
}


class _TooLong(Exception):
    """A number has more than 64 bits."""


def fits(data: bytes, descriptor: Descriptor) -> bool:
    """Whether each known field of a message, which Python has decoded, is of its wire type, and
    each number one of 64 bits.
    """
    try:
        return _fits(data, descriptor)
    except _TooLong:
        return False


def _fits(data: bytes, descriptor: Descriptor) -> bool:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire_type = tag & 7
        field = descriptor.fields_by_number.get(tag >> 3)
        if field is not None and wire_type != _WIRE_TYPES.get(field.type, _VARINT):
            return False
        begin, at = _span(data, at, wire_type)
        nested = field.message_type if field is not None else None
        if nested is not None and not _fits(data[begin:at], nested):
            return False
    return True


def _span(data: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """Where a value begins, and where it ends."""
    if wire_type == _VARINT:
        return at, _varint(data, at)[1]
    if wire_type == _BYTES:
        length, at = _varint(data, at)
        return at, at + length
    if wire_type != _START:
        return at, at + (8 if wire_type == _FIXED64 else 4)
    begin, depth = at, 1
    while depth:
        tag, at = _varint(data, at)
        if tag & 7 == _START:
            depth += 1
        elif tag & 7 == _END:
            depth -= 1
        else:
            at = _span(data, at, tag & 7)[1]
    return begin, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            if value >= 1 << 64:
                raise _TooLong
            return value, at
