// Who is in a room, from the frames that tell it. A state replaces what was known.

import type { PresenceMember } from "./gen/arqon/v1/envelope_pb.js";

export class Roster {
  /** By user. */
  members = new Map<string, PresenceMember>();
  /** Users in the room; more than members where it is truncated. */
  count = 0;
  /** Too many to be told. */
  truncated = false;
  /** Whether a state or a count has come. */
  known = false;
  #pages = new Map<string, PresenceMember>();

  /** A page of a state. Only the last one makes it visible. */
  state(members: readonly PresenceMember[], count: number, last: boolean, truncated: boolean): void {
    for (const member of members) this.#pages.set(member.user, member);
    if (!last) return;
    this.members = this.#pages;
    this.#pages = new Map();
    this.count = count;
    this.truncated = truncated;
    this.known = true;
  }

  /** Members who came or changed; the names of those who came. */
  update(members: readonly PresenceMember[], count: number): string[] {
    const came = members.map((member) => member.user).filter((user) => !this.members.has(user));
    for (const member of members) this.members.set(member.user, member);
    this.count = count;
    return came;
  }

  /** Members who left; the names of those who had been there. */
  leave(users: readonly string[], count: number): string[] {
    const left = users.filter((user) => this.members.delete(user));
    this.count = count;
    return left;
  }

  counted(count: number): void {
    this.count = count;
    this.known = true;
  }

  /** In the order of their names. */
  sorted(): PresenceMember[] {
    return [...this.members.values()].sort((a, b) => (a.user < b.user ? -1 : a.user > b.user ? 1 : 0));
  }
}
