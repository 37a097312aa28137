"""Benchmarks: the service as it really runs, in front of the simulator, each a claim with its figure.

`make bench` prints the tables and writes `bench/results.md`:

    measures.py   what the README claims                    contest.py   beside what one would use instead
    overhead.py   what the path through it costs            trouble.py   the same, at a limit and on a bad day
    window.py     the limits, in real time                  contenders/, turn.py   who they are, and a turn of theirs
    kills.py      200 deaths, and nothing lost              ledger.py    what being on record costs

Machines differ and are shared, so what is claimed are ratios to what is ideal in the same run, and counts made on
the receiving side; seconds are shown only to make the ratios readable.
"""
