// Frames: one Envelope each, as proto/arqon/v1/envelope.proto has it.

import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { type Envelope, EnvelopeSchema, Opcode, PresenceMode } from "./gen/arqon/v1/envelope_pb.js";

type Fields = MessageInitShape<typeof EnvelopeSchema>;

/** What a room is joined with. */
export interface JoinOptions {
  readonly presence: PresenceMode;
  readonly echo: boolean;
  readonly meta: Record<string, string>;
}

/** A message to be published. */
export interface Outgoing {
  readonly room: string;
  readonly payload: Uint8Array;
  readonly headers: Record<string, string>;
  readonly ack: boolean;
}

export function join(room: string, options: JoinOptions): Fields {
  const { presence, echo, meta } = options;
  return { op: Opcode.JOIN, room, body: { case: "join", value: { presence, echo, meta } } };
}

export function leave(room: string): Fields {
  return { op: Opcode.LEAVE, room };
}

export function publish(message: Outgoing): Fields {
  const { room, payload, headers, ack } = message;
  return { op: Opcode.PUBLISH, room, payload, headers, body: { case: "publish", value: { ack } } };
}

export function refresh(token: string): Fields {
  return { op: Opcode.REFRESH, body: { case: "refresh", value: { token } } };
}

export function ping(): Fields {
  return { op: Opcode.PING };
}

export function encode(fields: Fields, ref: bigint): Uint8Array<ArrayBuffer> {
  return toBinary(EnvelopeSchema, create(EnvelopeSchema, { ...fields, ref }));
}

/** The frame, or nothing where it is no Envelope that a server sends. */
export function decode(data: unknown): Envelope | undefined {
  if (!(data instanceof ArrayBuffer)) return undefined;
  try {
    const frame = fromBinary(EnvelopeSchema, new Uint8Array(data));
    return frame.op >= 64 && frame.op <= 127 ? frame : undefined;
  } catch {
    return undefined;
  }
}

/** A UUIDv7 for X-Twist-ID, by which a message's own echo is known again. */
export function twistId(nowMs: number, random: Uint8Array): string {
  const bytes = random.slice(0, 16);
  for (let at = 0; at < 6; at++) bytes[at] = Math.floor(nowMs / 2 ** (8 * (5 - at))) & 0xff;
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x70;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
