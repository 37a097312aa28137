"""Commands of `rcg` for the service of this machine: `serve`, `simulate`, `doctor` and `stop`."""

import json
import os

import pytest
from replicate_concurrent.local import caring
from replicate_concurrent.local.places import place

pytestmark = pytest.mark.slow


@pytest.fixture
def rcg(run_command, tmp_path, simulator, monkeypatch):
    """Runs a command as `run_command`, of a user with a token, with the simulator as Replicate."""
    for name in [name for name in os.environ if name.startswith(("REPLICATE_", "RCG_"))]:
        monkeypatch.delenv(name)
    variables = {
        "XDG_STATE_HOME": str(tmp_path), "RCG_CONFIG": str(tmp_path / "none.toml"), "RCG_SIMULATE": "0",
        "REPLICATE_BASE_URL": simulator.url, "REPLICATE_API_TOKEN": "r8_own",
        "IDLE_EXIT_SECONDS": "120",  # ends what a failing test leaves
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    yield run_command
    for simulated in (False, True):
        caring.stop(place(os.environ, simulated=simulated), seconds=30)


def test_serve_starts_a_service_once_which_doctor_shows_and_stop_ends(rcg):
    status, url, hint = rcg("serve")
    assert (0, True, True) == (status, url.startswith("http://127.0.0.1:"), "`rcg stop` ends it" in hint)
    assert (0, url) == rcg("serve")[:2]

    status, output, _ = rcg("doctor")
    shown = dict(line.split("\t", 1) for line in output.splitlines())
    assert (0, "running", url.strip(), "yes") == (status, shown["service here"], shown["at"], shown["token"])
    assert url.strip() == json.loads(rcg("doctor", "--json")[1])["url"]
    made = json.loads(rcg("generate", "A fox", "-m", "flux-dev", "--json")[1])
    assert (True, False) == (made["success"], made["simulated"])

    started = json.loads(rcg("serve", "--json")[1])
    assert ("replicate-concurrent-generation", False) == (started["service"], started["simulated"])

    assert (0, "", f"Ended process {shown['process']}.\n") == rcg("stop")
    assert (0, "", "No service of yours runs on this machine.\n") == rcg("stop")
    assert {"pid": None, "killed": False} == json.loads(rcg("stop", "--json")[1])
    assert "service here\tstopped" in rcg("doctor")[1]


def test_simulate_runs_a_command_on_a_service_of_its_own_and_warns_that_its_pictures_are_fakes(
    rcg, simulator
):
    before = simulator.counts().creations_accepted
    status, output, errors = rcg(
        "simulate", "generate", "A fox", "-m", "flux-dev", "-o", "out", "--name", "fox.{ext}"
    )
    assert (0, "out/fox.jpg\n") == (status, output), errors
    assert "The service is simulated: this output is a fake." in errors
    assert before == simulator.counts().creations_accepted

    _, url, hint = rcg("simulate")
    assert "RCG_SIMULATE=1" in hint
    assert f"running (simulated)\nat\t{url}" in rcg("simulate", "doctor")[1]
    assert json.loads(rcg("simulate", "--json")[1])["simulated"]
    assert rcg("simulate", "stop")[2].startswith("Ended process ")
