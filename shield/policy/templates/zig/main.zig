//! POLICY_NAME: blocks messages that hold a word of the configuration. Words are separated by commas or line ends;
//! capitals of ASCII do not matter.
//!
//! Strings and lists are pairs of `ptr` and `len`. What you are given is yours to free (or to keep); what you give away
//! is freed by the glue in policy.c, so it must come from malloc, or policy_string_dup_n.

const c = @import("policy.zig");

const max_words = 64;
var words: [max_words][]const u8 = undefined;
var count: usize = 0;

fn small(byte: u8) u8 {
    return if (byte >= 'A' and byte <= 'Z') byte + ('a' - 'A') else byte;
}

fn isBetween(byte: u8) bool {
    return byte == ',' or byte == '\n' or byte == '\r';
}

fn give(to: *c.policy_string_t, text: []const u8) void {
    c.policy_string_dup_n(to, text.ptr, text.len);
}

/// Called once for each instance. `config` stays: the words point into it.
export fn exports_policy_configure(config: *c.policy_list_u8_t, err: *c.policy_string_t) bool {
    const text: []u8 = if (config.len == 0) &.{} else config.ptr[0..config.len];
    count = 0;
    var at: usize = 0;
    while (at < text.len) : (at += 1) {
        var start = at;
        while (at < text.len and !isBetween(text[at])) at += 1;
        var end = at;
        while (start < end and text[start] == ' ') start += 1;
        while (end > start and text[end - 1] == ' ') end -= 1;
        if (start == end) continue;
        if (count == max_words) {
            give(err, "more than 64 words");
            return false;
        }
        for (text[start..end]) |*byte| byte.* = small(byte.*);
        words[count] = text[start..end];
        count += 1;
    }
    if (count == 0) {
        give(err, "no words: give them separated by commas");
        return false;
    }
    return true;
}

fn holds(text: []const u8, word: []const u8) bool {
    var at: usize = 0;
    while (at + word.len <= text.len) : (at += 1) {
        for (word, text[at..][0..word.len]) |want, byte| {
            if (small(byte) != want) break;
        } else return true;
    }
    return false;
}

/// Called for each message.
export fn exports_policy_on_message(message: *c.policy_message_t, verdict: *c.policy_verdict_t) void {
    defer c.policy_message_free(message);
    verdict.tag = c.ARQON_POLICY_TYPES_VERDICT_ALLOW;
    const payload = message.payload;
    const text: []const u8 = if (payload.len == 0) &.{} else payload.ptr[0..payload.len];
    for (words[0..count]) |word| {
        if (holds(text, word)) {
            verdict.tag = c.ARQON_POLICY_TYPES_VERDICT_BLOCK;
            give(&verdict.val.block, "a word of the list");
            return;
        }
    }
}
