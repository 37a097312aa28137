"""Telemetry: the log."""
