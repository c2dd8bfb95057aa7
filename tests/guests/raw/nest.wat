;; Calls that nest as deep as asked: in one module, through two, by every way of leaving a function.
(component
  (core module $table
    (table (export "table") 2 funcref))
  (core module $a
    (type $step (func (param i32) (result i32)))
    (import "table" "table" (table 2 funcref))
    (global $unused (mut i32) (i32.const 7))
    (elem (i32.const 0) $ping)
    ;; One parameter, two operands at most.
    (func $nest (export "nest") (param i32) (result i32)
      (if (result i32) (i32.eqz (local.get 0))
        (then (i32.const 0))
        (else (i32.add (call $nest (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))))
    (func $ping (export "ping") (param i32) (result i32)
      (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
      (i32.add
        (call_indirect (type $step) (i32.sub (local.get 0) (i32.const 1)) (i32.const 1))
        (i32.const 1)))
    ;; Each call takes the place of the one before.
    (func $tail (export "tail") (param i32) (result i32)
      (if (result i32) (i32.eqz (local.get 0))
        (then (global.get $unused))
        (else (return_call $tail (i32.sub (local.get 0) (i32.const 1))))))
    (func $two (param i32) (result i32 i32)
      (block (result i32)
        (drop (call $nest (i32.const 3)))
        (br_if 1 (i32.const 1) (i32.const 2) (local.get 0))
        (drop) (drop)
        (return (i32.const 3) (i32.const 4)))
      (unreachable))
    ;; So often that a frame that is not given back would be missed.
    (func (export "leave") (param $times i32) (result i32)
      (local $sum i32)
      (loop $again
        (call $two (i32.and (local.get $times) (i32.const 1)))
        (local.set $sum (i32.add (i32.add (local.get $sum))))
        (br_if $again (local.tee $times (i32.sub (local.get $times) (i32.const 1)))))
      (local.get $sum)))
  (core module $b
    (type $step (func (param i32) (result i32)))
    (import "table" "table" (table 2 funcref))
    (elem (i32.const 1) $pong)
    (func $pong (param i32) (result i32)
      (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
      (i32.add
        (call_indirect (type $step) (i32.sub (local.get 0) (i32.const 1)) (i32.const 0))
        (i32.const 1))))
  (core instance $table (instantiate $table))
  (core instance $a (instantiate $a (with "table" (instance $table))))
  (core instance $b (instantiate $b (with "table" (instance $table))))
  (type $step (func (param "n" u32) (result u32)))
  (func $nest (type $step) (canon lift (core func $a "nest")))
  (func $ping (type $step) (canon lift (core func $a "ping")))
  (func $tail (type $step) (canon lift (core func $a "tail")))
  (func $leave (type $step) (canon lift (core func $a "leave")))
  (instance $queries
    (export "nest" (func $nest))
    (export "ping" (func $ping))
    (export "tail" (func $tail))
    (export "leave" (func $leave)))
  (export "example:raw/queries@0.1.0" (instance $queries)))
