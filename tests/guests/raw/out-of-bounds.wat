;; Loads behind the end of its memory.
(component
  (core module $m
    (memory 1)
    (func (export "load") (param i32) (result i32) (i32.load8_u (local.get 0))))
  (core instance $i (instantiate $m))
  (func $load (param "address" u32) (result u8) (canon lift (core func $i "load")))
  (instance $commands (export "load" (func $load)))
  (export "example:raw/commands@0.1.0" (instance $commands)))
