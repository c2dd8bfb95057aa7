;; Exports an interface, but neither commands nor queries.
(component
  (core module $m (func (export "f")))
  (core instance $i (instantiate $m))
  (func $f (canon lift (core func $i "f")))
  (instance $other (export "f" (func $f)))
  (export "example:raw/other@0.1.0" (instance $other)))
