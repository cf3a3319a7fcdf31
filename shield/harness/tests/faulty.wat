;; A policy by hand: traps on a payload that begins with `t`, runs for ever on `l`, allows the rest.
(module
  (memory (export "memory") 1)
  (global $next (mut i32) (i32.const 1024))
  ;; Never freed, only begun anew by the next instance or, past 48 KiB, from the start.
  (func (export "cabi_realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
    (local $at i32)
    (if (i32.gt_u (i32.add (global.get $next) (local.get $new)) (i32.const 49152))
      (then (global.set $next (i32.const 1024))))
    (local.set $at
      (i32.and
        (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $next (i32.add (local.get $at) (local.get $new)))
    (local.get $at))
  ;; result<_, string>: tag 0 is ok
  (func (export "configure") (param i32 i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.const 16))
  ;; tenant, room, user, role, headers, payload: pointer and length each
  (func (export "on-message") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (param $payload i32) (param $length i32) (result i32)
    (if (local.get $length)
      (then
        (if (i32.eq (i32.load8_u (local.get $payload)) (i32.const 116)) (then (unreachable)))
        (if (i32.eq (i32.load8_u (local.get $payload)) (i32.const 108)) (then (loop $for_ever (br $for_ever))))))
    (i32.store8 (i32.const 32) (i32.const 0))
    (i32.const 32)))
