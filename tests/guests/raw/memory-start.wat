;; Asks for all the memory that 32 bits can name before it does anything.
(component
  (core module $m
    (memory 65536)
    (func (export "value") (result i32) (i32.load8_u (i32.const 0))))
  (core instance $i (instantiate $m))
  (func $value (result u8) (canon lift (core func $i "value")))
  (instance $queries (export "value" (func $value)))
  (export "example:raw/queries@0.1.0" (instance $queries)))
