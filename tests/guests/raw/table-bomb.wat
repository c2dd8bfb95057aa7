;; Grows a table, 65,536 elements at a time: until the host refuses, or until it traps.
(component
  (core module $m
    (table $t 1 funcref)
    (func (export "grow") (result i32)
      (loop $again
        (br_if $again (i32.ne (table.grow $t (ref.null func) (i32.const 65536)) (i32.const -1))))
      (table.size $t))
    (func (export "grow-or-trap")
      (loop $again
        (if (i32.eq (table.grow $t (ref.null func) (i32.const 65536)) (i32.const -1)) (then unreachable))
        (br $again))))
  (core instance $i (instantiate $m))
  (func $grow (result u32) (canon lift (core func $i "grow")))
  (func $grow-or-trap (canon lift (core func $i "grow-or-trap")))
  (instance $commands
    (export "grow" (func $grow))
    (export "grow-or-trap" (func $grow-or-trap)))
  (export "example:raw/commands@0.1.0" (instance $commands)))
