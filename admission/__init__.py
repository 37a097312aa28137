"""Admission: when a generation may start, without a clock, a loop or I/O: the present moment is an argument.

`policy.Policy` has every rule. `concurrency.Gate` drives it by the loop's clock, `forecast` by a simulated one.
"""
