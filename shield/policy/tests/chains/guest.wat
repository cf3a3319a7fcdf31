;; A policy that does what the first byte of its configuration says; `P`: what
;; the first byte of the payload says.
;;
;;   A  allows             B  blocks, reason: the configuration
;;   T  traps              E  blocks, reason: the payload
;;   L  loops              R  payload becomes the rest of the configuration
;;   H  a header of ours   S  a payload of 100,000 bytes
;;   C  blocks but for the first message of this instance
;;   W  writes 16 lines    F  refuses its configuration
;;   Z  loops in configure
(module
  (import "arqon:policy/host@1.0.0" "log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 8192))
  (global $base (mut i32) (i32.const 8192))
  (global $config (mut i32) (i32.const 0))
  (global $length (mut i32) (i32.const 0))
  (global $runs (mut i32) (i32.const 0))
  (data (i32.const 1024) "x-timestamp")

  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (local.get $at))

  (func (export "configure") (param $at i32) (param $length i32) (result i32)
    (global.set $config (local.get $at))
    (global.set $length (local.get $length))
    (global.set $base (global.get $heap))
    (i32.store8 (i32.const 48) (i32.const 0))
    (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 70)) ;; F
      (then
        (i32.store8 (i32.const 48) (i32.const 1))
        (i32.store (i32.const 52) (local.get $at))
        (i32.store (i32.const 56) (local.get $length))))
    (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 90)) ;; Z
      (then (loop $forever (br $forever))))
    (i32.const 48))

  (func $block (param $at i32) (param $length i32)
    (i32.store8 (i32.const 16) (i32.const 1))
    (i32.store (i32.const 20) (local.get $at))
    (i32.store (i32.const 24) (local.get $length)))

  (func $payload (param $at i32) (param $length i32)
    (i32.store8 (i32.const 16) (i32.const 2))
    (i32.store8 (i32.const 20) (i32.const 1))
    (i32.store (i32.const 24) (local.get $at))
    (i32.store (i32.const 28) (local.get $length))
    (i32.store8 (i32.const 32) (i32.const 0)))

  (func (export "on-message")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)
    (param $payload i32) (param $length i32)
    (result i32)
    (local $mode i32) (local $i i32)
    (global.set $runs (i32.add (global.get $runs) (i32.const 1)))
    (local.set $mode (i32.load8_u (global.get $config)))
    (if (i32.eq (local.get $mode) (i32.const 80)) ;; P
      (then (local.set $mode (i32.load8_u (local.get $payload)))))
    (i32.store8 (i32.const 16) (i32.const 0))
    (if (i32.eq (local.get $mode) (i32.const 66)) ;; B
      (then (call $block (global.get $config) (global.get $length))))
    (if (i32.eq (local.get $mode) (i32.const 69)) ;; E
      (then (call $block (local.get $payload) (local.get $length))))
    (if (i32.eq (local.get $mode) (i32.const 84)) ;; T
      (then unreachable))
    (if (i32.eq (local.get $mode) (i32.const 76)) ;; L
      (then (loop $forever (br $forever))))
    (if (i32.eq (local.get $mode) (i32.const 82)) ;; R
      (then
        (call $payload
          (i32.add (global.get $config) (i32.const 1))
          (i32.sub (global.get $length) (i32.const 1)))))
    (if (i32.eq (local.get $mode) (i32.const 83)) ;; S
      (then (call $payload (i32.const 0) (i32.const 100000))))
    (if (i32.eq (local.get $mode) (i32.const 72)) ;; H
      (then
        (call $payload (i32.const 0) (i32.const 0))
        (i32.store8 (i32.const 20) (i32.const 0))
        (i32.store8 (i32.const 32) (i32.const 1))
        (i32.store (i32.const 36) (i32.const 64))
        (i32.store (i32.const 40) (i32.const 1))
        (i32.store (i32.const 64) (i32.const 1024))
        (i32.store (i32.const 68) (i32.const 11))
        (i32.store (i32.const 72) (i32.const 1024))
        (i32.store (i32.const 76) (i32.const 0))))
    (if (i32.eq (local.get $mode) (i32.const 67)) ;; C
      (then
        (if (i32.gt_u (global.get $runs) (i32.const 1))
          (then (call $block (global.get $config) (global.get $length))))))
    (if (i32.eq (local.get $mode) (i32.const 87)) ;; W
      (then
        (loop $more
          (call $log (i32.const 1) (local.get $payload) (local.get $length))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $more (i32.lt_u (local.get $i) (i32.const 16))))))
    (i32.const 16))

  (func (export "cabi_post_on-message") (param i32)
    (global.set $heap (global.get $base))))
