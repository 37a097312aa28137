"""Checks of the texts of callers, before any money is spent: rules of the operator, and a service that judges."""
