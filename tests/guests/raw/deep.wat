;; Calls itself with as small a frame as there is: the most calls that fit on a stack.
(component
  (core module $m
    (func $recurse (export "recurse") (param i32) (result i32)
      (i32.add (call $recurse (i32.add (local.get 0) (i32.const 1))) (i32.const 1))))
  (core instance $i (instantiate $m))
  (func $recurse (param "depth" u32) (result u32) (canon lift (core func $i "recurse")))
  (instance $commands (export "recurse" (func $recurse)))
  (export "example:raw/commands@0.1.0" (instance $commands)))
