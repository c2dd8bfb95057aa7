;; Imports a function that the contract does not have, from an interface that it has.
(component
  (import "lattice:store/state@0.1.0" (instance $state
    (export "drop-everything" (func (result u64)))))
  (core func $drop (canon lower (func $state "drop-everything")))
  (core module $m
    (import "host" "drop" (func $drop (result i64)))
    (func (export "wipe") (result i64) (call $drop)))
  (core instance $i (instantiate $m (with "host" (instance (export "drop" (func $drop))))))
  (func $wipe (result u64) (canon lift (core func $i "wipe")))
  (instance $commands (export "wipe" (func $wipe)))
  (export "example:raw/commands@0.1.0" (instance $commands)))
