"""Benchmarks: the service as it really runs, in front of the simulator, each a claim with its figure.

`make bench` prints the table and writes `bench/results.md`. Machines differ and are shared, so what is claimed
are ratios to what is ideal in the same run, and counts made on the receiving side; seconds are shown only to
make the ratios readable.
"""
