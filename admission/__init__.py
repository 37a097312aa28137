"""Admission: when a generation may start. Pure: no clock, no event loop, no I/O; the current time is an argument.

`policy.Policy` has every rule, and its module explains them. `concurrency.Gate` drives it by the loop's clock, and
`forecast` by a simulated clock.
"""
