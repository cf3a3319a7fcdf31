// Of policy.h by `zig translate-c`, less what every C header has. DO NOT EDIT!
pub const struct_policy_string_t = extern struct {
    ptr: [*c]u8 = null,
    len: usize = 0,
};
pub const policy_string_t = struct_policy_string_t;
pub const arqon_policy_host_level_t = u8;
pub const struct_arqon_policy_types_header_t = extern struct {
    name: policy_string_t = @import("std").mem.zeroes(policy_string_t),
    value: policy_string_t = @import("std").mem.zeroes(policy_string_t),
};
pub const arqon_policy_types_header_t = struct_arqon_policy_types_header_t;
pub const arqon_policy_types_list_header_t = extern struct {
    ptr: [*c]arqon_policy_types_header_t = null,
    len: usize = 0,
};
pub const policy_list_u8_t = extern struct {
    ptr: [*c]u8 = null,
    len: usize = 0,
};
pub const struct_arqon_policy_types_message_t = extern struct {
    tenant: policy_string_t = @import("std").mem.zeroes(policy_string_t),
    room: policy_string_t = @import("std").mem.zeroes(policy_string_t),
    user: policy_string_t = @import("std").mem.zeroes(policy_string_t),
    role: policy_string_t = @import("std").mem.zeroes(policy_string_t),
    headers: arqon_policy_types_list_header_t = @import("std").mem.zeroes(arqon_policy_types_list_header_t),
    payload: policy_list_u8_t = @import("std").mem.zeroes(policy_list_u8_t),
};
pub const arqon_policy_types_message_t = struct_arqon_policy_types_message_t;
pub const policy_option_list_u8_t = extern struct {
    is_some: bool = false,
    val: policy_list_u8_t = @import("std").mem.zeroes(policy_list_u8_t),
};
pub const arqon_policy_types_option_list_header_t = extern struct {
    is_some: bool = false,
    val: arqon_policy_types_list_header_t = @import("std").mem.zeroes(arqon_policy_types_list_header_t),
};
pub const struct_arqon_policy_types_rewrite_t = extern struct {
    payload: policy_option_list_u8_t = @import("std").mem.zeroes(policy_option_list_u8_t),
    headers: arqon_policy_types_option_list_header_t = @import("std").mem.zeroes(arqon_policy_types_option_list_header_t),
};
pub const arqon_policy_types_rewrite_t = struct_arqon_policy_types_rewrite_t;
const union_unnamed_1 = extern union {
    block: policy_string_t,
    transform: arqon_policy_types_rewrite_t,
};
pub const struct_arqon_policy_types_verdict_t = extern struct {
    tag: u8 = 0,
    val: union_unnamed_1 = @import("std").mem.zeroes(union_unnamed_1),
};
pub const arqon_policy_types_verdict_t = struct_arqon_policy_types_verdict_t;
pub const policy_message_t = arqon_policy_types_message_t;
pub const policy_verdict_t = arqon_policy_types_verdict_t;
const union_unnamed_2 = extern union {
    err: policy_string_t,
};
pub const policy_result_void_string_t = extern struct {
    is_err: bool = false,
    val: union_unnamed_2 = @import("std").mem.zeroes(union_unnamed_2),
};
pub extern fn arqon_policy_host_log(level: arqon_policy_host_level_t, text: [*c]policy_string_t) void;
pub extern fn exports_policy_configure(config: [*c]policy_list_u8_t, err: [*c]policy_string_t) bool;
pub extern fn exports_policy_on_message(msg: [*c]policy_message_t, ret: [*c]policy_verdict_t) void;
pub extern fn arqon_policy_types_header_free(ptr: [*c]arqon_policy_types_header_t) void;
pub extern fn arqon_policy_types_list_header_free(ptr: [*c]arqon_policy_types_list_header_t) void;
pub extern fn policy_list_u8_free(ptr: [*c]policy_list_u8_t) void;
pub extern fn arqon_policy_types_message_free(ptr: [*c]arqon_policy_types_message_t) void;
pub extern fn policy_option_list_u8_free(ptr: [*c]policy_option_list_u8_t) void;
pub extern fn arqon_policy_types_option_list_header_free(ptr: [*c]arqon_policy_types_option_list_header_t) void;
pub extern fn arqon_policy_types_rewrite_free(ptr: [*c]arqon_policy_types_rewrite_t) void;
pub extern fn arqon_policy_types_verdict_free(ptr: [*c]arqon_policy_types_verdict_t) void;
pub extern fn policy_message_free(ptr: [*c]policy_message_t) void;
pub extern fn policy_verdict_free(ptr: [*c]policy_verdict_t) void;
pub extern fn policy_result_void_string_free(ptr: [*c]policy_result_void_string_t) void;
pub extern fn policy_string_set(ret: [*c]policy_string_t, s: [*c]const u8) void;
pub extern fn policy_string_dup(ret: [*c]policy_string_t, s: [*c]const u8) void;
pub extern fn policy_string_dup_n(ret: [*c]policy_string_t, s: [*c]const u8, len: usize) void;
pub extern fn policy_string_free(ret: [*c]policy_string_t) void;

pub const ARQON_POLICY_HOST_LEVEL_DEBUG = @as(c_int, 0);
pub const ARQON_POLICY_HOST_LEVEL_INFO = @as(c_int, 1);
pub const ARQON_POLICY_HOST_LEVEL_WARN = @as(c_int, 2);
pub const ARQON_POLICY_HOST_LEVEL_ERROR = @as(c_int, 3);
pub const ARQON_POLICY_TYPES_VERDICT_ALLOW = @as(c_int, 0);
pub const ARQON_POLICY_TYPES_VERDICT_BLOCK = @as(c_int, 1);
pub const ARQON_POLICY_TYPES_VERDICT_TRANSFORM = @as(c_int, 2);
