;; A policy that answers with whatever the message says: the first four bytes of
;; the payload are the address of its verdict, the rest lies from 1024 on. What
;; Shield passes in lies from 65536 on.
(module
  (import "arqon:policy/host@1.0.0" "log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 65536))

  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (local.get $at))

  (func (export "configure") (param i32 i32) (result i32)
    (i32.const 16))

  (func (export "on-message")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)
    (param $payload i32) (param $length i32)
    (result i32)
    (memory.copy
      (i32.const 1024)
      (i32.add (local.get $payload) (i32.const 4))
      (i32.sub (local.get $length) (i32.const 4)))
    (i32.load (local.get $payload))))
