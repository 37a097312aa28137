"""Benchmarks of the running service in front of the simulator. Each claim has a figure and most have a target.

`make bench` prints the tables and writes `bench/results.md`:

    measures.py    the claims of the documentation         comparison.py         beside other ways to do the same
    overhead.py    the cost of the path through it         comparison_faults.py  the same, at a limit and with faults
    window.py      the limits, in real time                contenders/, contender_run.py   those other ways
    kills.py       200 kills without a loss                ledger.py             the cost of the ledger
    batch_kills.py the same for `rcg batch`                command.py            the speed of `rcg batch`
    crowd.py       greedy callers beside others            stalls.py             a stalled Replicate
    against.py     this commit against an earlier one      pinned.py             with PIN_TO_CORE=1 and without
    doors.py       named keys, and both doors              calls.py             text models: path, stream, limits
    call_kills.py  kills during calls to text models    trainings.py           kills during trainings and pictures

`rounds.py` and `figures.py` measure contenders by turns; `commits.py` exports the earlier commit.

Machines differ and are shared. So claims are ratios to an ideal in the same run, and counts at the receiving side.
Seconds only make the ratios readable.
"""
