"""`python -m simulator` starts, prints its address, and ends with its parent."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from harness.certificates import certified
from simulator import Options, Simulator, running

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "simulator"]


@contextmanager
def program(*flags, **options):
    child = subprocess.Popen(
        [*COMMAND, "--port", "0", *flags], cwd=ROOT, stdout=subprocess.PIPE, text=True, **options
    )
    try:
        yield child, child.stdout.readline()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def failed(*flags, **environment):
    done = subprocess.run(
        [*COMMAND, *flags],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    return done.returncode, done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_and_exits_with_0_on_a_signal(how):
    with program() as (child, line):
        text, _, url = line.strip().rpartition(" ")
        assert text == "simulator listening on"
        assert "simulated Replicate" in requests.get(url, timeout=10).text
        child.send_signal(how)
        assert child.wait(10) == 0
        assert child.stdout.read() == ""


def test_it_serves_https_with_a_certificate(tmp_path):
    certificate = tmp_path / "certificate.pem"
    certified(certificate, "localhost")

    with program("--host", "localhost", "--certificate", str(certificate)) as (_, line):
        url = line.split()[-1]
        assert url.startswith("https://localhost:")
        assert "simulated Replicate" in requests.get(url, timeout=10, verify=certificate).text


def test_a_missing_certificate_is_reported_in_one_sentence():
    status, message = failed("--certificate", "nowhere.pem")
    assert status == 2
    assert "certificate must be a file" in message


def test_it_ends_with_its_standard_input():
    with program("--exit-on-stdin-eof", stdin=subprocess.PIPE) as (child, _):
        child.stdin.close()
        assert child.wait(10) == 0


def test_a_hanging_response_does_not_delay_the_exit():
    with program() as (child, line):
        url = line.split()[-1]
        order = [{"on": "account", "hang": 600}]
        requests.post(f"{url}/simulator/faults", json=order, timeout=10)
        token = {"Authorization": "Bearer r8_tester"}
        with pytest.raises(requests.Timeout):
            requests.get(f"{url}/v1/account", headers=token, timeout=0.1)
        child.terminate()
        assert child.wait(10) == 0


def test_a_port_in_use_is_reported_in_one_sentence():
    with running() as sim:
        status, message = failed("--port", sim.url.rpartition(":")[2])
    assert status == 2
    assert "in use" in message


def test_a_missing_package_is_reported_in_one_sentence(tmp_path):
    missing = "raise ModuleNotFoundError(\"No module named 'PIL'\", name='PIL')\n"
    (tmp_path / "PIL.py").write_text(missing)
    status, message = failed(PYTHONPATH=str(tmp_path))
    assert status == 2
    assert "pip install -r requirements-simulator.txt" in message


def test_a_remote_host_must_be_allowed():
    status, message = failed("--host", "0.0.0.0")
    assert status == 2
    assert "allow" in message


def test_a_remote_host_can_be_allowed():
    assert Options(host="0.0.0.0", allow_remote=True).host == "0.0.0.0"


def test_a_simulator_can_be_started_again():
    simulator = Simulator(Options(prediction_seconds=0))
    for _ in range(2):
        simulator.start()
        assert requests.get(simulator.url, timeout=10).status_code == 200
        simulator.stop()
    assert simulator.counts().requests == {}
    simulator.stop()


def test_a_simulator_that_cannot_listen_leaves_no_thread_behind():
    with running() as sim:
        other = Simulator(Options(port=int(sim.url.rpartition(":")[2])))
        with pytest.raises(OSError, match="in use"):
            other.start()
