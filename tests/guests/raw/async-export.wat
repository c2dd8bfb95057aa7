;; A query that gives a future, which belongs to component-model async and is switched off.
(component
  (type $later (future u32))
  (core module $m (func (export "value") (result i32) (i32.const 0)))
  (core instance $i (instantiate $m))
  (func $value (result $later) (canon lift (core func $i "value")))
  (instance $queries (export "value" (func $value)))
  (export "example:raw/queries@0.1.0" (instance $queries)))
