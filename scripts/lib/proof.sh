# shellcheck shell=bash
# The proof that a running ArqonBus works, by real clients. Sourced by scripts/dev and scripts/smoke, after scripts/lib/bus.sh.

say() { printf '==> %s\n' "$*"; }
ok() { printf '    ok: %s\n' "$*"; }
fail() {
    printf '    FAILED: %s\n' "$*" >&2
    exit 1
}

: "${work:?}"
# Where they meet, and the policy: its binding's name, whom it is for, and in which rooms.
room=lobby
binding=demo
scope=(--platform)
rooms=()

# prove_bus: needs the tenants acme and globex, and tokens that this machine may sign for them. Leaves nothing behind but a
# version of a policy that is bound to nothing.
prove_bus() {
    say "two clients of tenant acme, one of tenant globex, each in its tenant's room $room"
    hear "$work/alice" "$room" --tenant acme --user alice
    hear "$work/carol" "$room" --tenant globex --user carol
    ok 'alice of acme and carol of globex have joined'
    arq pub "$room" 'hello from bob' --tenant acme --user bob
    until_true grep -q '"payload":"hello from bob".*"user":"bob"' "$work/alice" ||
        fail 'alice did not hear bob'
    ok 'alice heard bob'

    watch "$work/seen" "$room" --tenant acme --user warden
    hear "$work/dora" "$room" --tenant acme --user dora --presence
    # By an update; or by the whole state, where the Brain that would have told it has just died.
    until_true grep -qE '"op":"PRESENCE_(UPDATE|STATE)".*"user":"dora"' "$work/seen" ||
        fail "nobody told that dora came: $(cat "$work/seen")"
    arq presence "$room" --tenant acme | grep -q dora || fail 'dora is not in the room'
    stop_last_listener
    until_true grep -q '"op":"PRESENCE_LEAVE".*dora' "$work/seen" ||
        fail 'nobody told that dora left'
    ok 'dora came and left, and who watches the room was told'

    arq policy add blocklist --words malware "${scope[@]}" ${rooms[@]+"${rooms[@]}"} --name "$binding" >"$work/policy" || fail 'the policy was not taken'
    if arq pub "$room" 'free malware' --tenant acme --user bob 2>"$work/blocked"; then
        fail 'a message with "malware" was published'
    fi
    grep -q 'Message blocked by policy' "$work/blocked" || fail "bob was not told why: $(cat "$work/blocked")"
    arq pub "$room" 'free software' --tenant acme --user bob
    until_true grep -q '"payload":"free software"' "$work/alice" || fail 'alice did not hear of free software'
    ! grep -q 'free malware' "$work/alice" || fail 'alice heard what was blocked'
    arq policy unbind "$binding" "${scope[@]}" >"$work/policy"
    ok 'a policy blocked "malware", live: bob was told, alice heard nothing of it'

    # Carol hears her own tenant, so her silence above means something; and what she hears comes
    # after the message of acme, so she had the time to hear that one.
    arq pub "$room" 'hello from dave' --tenant globex --user dave
    until_true grep -q '"payload":"hello from dave".*"user":"dave"' "$work/carol" ||
        fail 'carol did not hear dave of her own tenant'
    sleep 0.5
    [ "$(heard "$work/carol")" = 1 ] || fail "carol of globex heard a message of acme: $(cat "$work/carol")"
    [ "$(heard "$work/alice")" = 2 ] || fail "alice of acme heard a message of globex: $(cat "$work/alice")"
    ok 'carol heard dave of her own tenant, and nothing of acme'
    stop_listeners
}
