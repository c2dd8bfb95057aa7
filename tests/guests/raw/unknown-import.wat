;; Imports something that no host of a store gives.
(component
  (import "example:elsewhere/service@1.0.0" (instance $elsewhere
    (export "now" (func (result u64)))))
  (core func $now (canon lower (func $elsewhere "now")))
  (core module $m
    (import "host" "now" (func $now (result i64)))
    (func (export "value") (result i64) (call $now)))
  (core instance $i (instantiate $m (with "host" (instance (export "now" (func $now))))))
  (func $value (result u64) (canon lift (core func $i "value")))
  (instance $queries (export "value" (func $value)))
  (export "example:raw/queries@0.1.0" (instance $queries)))
