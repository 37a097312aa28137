"""Admission of metered calls: at most so many requests, tokens, dollars and calls at once, per account and model. Pure,
as all of `admission`.

`policy.MeteredPolicy` has every rule, and its module explains them. `metering.MeteredGate` drives it by the loop's
clock.
"""
