;; A command that gives a resource, which no log could hold.
(component
  (type $handle' (resource (rep i32)))
  (core func $new (canon resource.new $handle'))
  (core module $m
    (import "host" "new" (func $new (param i32) (result i32)))
    (func (export "open") (result i32) (call $new (i32.const 1))))
  (core instance $i (instantiate $m (with "host" (instance (export "new" (func $new))))))
  (func $open (result (own $handle')) (canon lift (core func $i "open")))
  (component $shape
    (import "handle" (type $handle (sub resource)))
    (import "open" (func $open (result (own $handle))))
    (export $exported "handle" (type $handle))
    (export "open" (func $open) (func (result (own $exported)))))
  (instance $commands (instantiate $shape
    (with "handle" (type $handle'))
    (with "open" (func $open))))
  (export "example:raw/commands@0.1.0" (instance $commands)))
