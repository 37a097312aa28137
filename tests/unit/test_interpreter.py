"""The interpreter's switch interval: short only while something computes."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.backpressure import Turns
from interpreter import SHORT, USUAL, computing
from loop_thread import LoopThread, Pool


@pytest.fixture(autouse=True)
def _is_restored():
    yield
    assert pytest.approx(USUAL) == sys.getswitchinterval()


def test_the_interval_is_short_until_the_last_computation_has_ended():
    with computing():
        with computing():
            assert pytest.approx(SHORT) == sys.getswitchinterval()
        assert pytest.approx(SHORT) == sys.getswitchinterval()


def test_a_computation_that_fails_has_ended_as_well():
    with pytest.raises(ZeroDivisionError), computing():
        raise ZeroDivisionError


def test_a_turn_to_parse_is_a_computation():
    with Turns().turn("a caller"):
        assert pytest.approx(SHORT) == sys.getswitchinterval()


@pytest.mark.parametrize(("computes", "interval"), [(True, SHORT), (False, USUAL)])
def test_the_jobs_of_a_pool_that_computes_are_computations(computes, interval):
    loop = LoopThread().start()
    pool = Pool(ThreadPoolExecutor(1), computes=computes)
    try:
        assert pytest.approx(interval) == loop.run(pool.run(sys.getswitchinterval))
    finally:
        pool.close()
        loop.stop()
