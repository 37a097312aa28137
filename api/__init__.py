"""The HTTP interface: one module for each group of routes. No other package knows of Flask."""
