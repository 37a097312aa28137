"""Checks of what callers write, before anything is spent: rules of the operator, and a service that judges."""
