;; Loops for ever while it is instantiated.
(component
  (core module $m
    (func $start (loop $again (br $again)))
    (func (export "value") (result i32) (i32.const 1))
    (start $start))
  (core instance $i (instantiate $m))
  (func $value (result u32) (canon lift (core func $i "value")))
  (instance $queries (export "value" (func $value)))
  (export "example:raw/queries@0.1.0" (instance $queries)))
