"""The container, as far as it can be tested without Docker: its files exist and suffice."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from api import client_wheels
from harness.service_process import running_service
from settings import Settings

ROOT = Path(__file__).parents[2]


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def _last_stage() -> list[tuple[str, str]]:
    every = _instructions()
    start = max(index for index, (name, _) in enumerate(every) if name == "FROM")
    return every[start:]


def _copied() -> list[str]:
    """The files and folders of the checkout that get into the image."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line[1:].rstrip("/") for line in lines if line.startswith("!")]
    return [
        str(path.relative_to(ROOT))
        for pattern in patterns
        if pattern not in _removed()
        for path in ROOT.glob(pattern)
    ]


def _removed() -> set[str]:
    """What only the build of the image has."""
    (wheel,) = [rest for name, rest in _instructions() if name == "RUN" and "pip wheel" in rest]
    return set(re.search(r"rm -r ([^&]+) &&", wheel)[1].split())


def _the_only(name: str) -> str:
    (rest,) = [rest for instruction, rest in _last_stage() if instruction == name]
    return rest


def test_the_container_holds_every_module_the_service_imports(tmp_path):
    for source in _copied():
        subprocess.run(["cp", "-r", ROOT / source, tmp_path], check=True)

    used = "import app, sys; print(*sorted(m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)))"
    loaded = subprocess.run(
        [sys.executable, "-c", used], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()

    modules = {Path(file).name for file in loaded if file.startswith(str(tmp_path))}
    assert {path.name for path in tmp_path.glob("*.py")} - {"gunicorn.conf.py"} <= modules
    assert not [file for file in loaded if file.startswith(str(ROOT)) and "site-packages" not in file]


def test_the_container_has_the_wheel_of_the_client_and_neither_its_source_nor_the_simulator():
    wheel = next(rest for name, rest in _instructions() if name == "RUN" and "pip wheel" in rest)

    assert {"client", "simulator", ".dockerignore"} == _removed()
    assert wheel.endswith(f"&& mkdir client && mv /wheels {client_wheels.DIST.relative_to(ROOT)}")


def test_the_container_runs_what_the_readme_and_make_run_run():
    assert ["python", "app.py"] == json.loads(_the_only("CMD"))
    assert "$(BIN)/python app.py" in (ROOT / "Makefile").read_text()


def test_the_container_is_slim_multi_stage_and_not_root():
    stages = [rest.split()[0] for name, rest in _instructions() if name == "FROM"]

    assert ["python:3.13-slim"] * 2 == stages
    assert "10001:10001" == _the_only("USER")
    assert "5000" == _the_only("EXPOSE")
    assert "SIGTERM" == _the_only("STOPSIGNAL")


def test_persistent_data_is_in_a_volume_that_the_user_may_write():
    where = f"{_the_only('WORKDIR')}/{Settings.model_fields['DATA_DIR'].default}"
    compose = (ROOT / "compose.yaml").read_text()

    assert where == _the_only("VOLUME")
    assert f"--from=build --chown={_the_only('USER')} {where} {where}" in [
        rest for name, rest in _last_stage() if name == "COPY"
    ]
    assert f"- data:{where}\n" in compose


def test_the_container_listens_on_all_addresses_even_with_the_example_file():
    assert "HOST=0.0.0.0" in shlex.split(_the_only("ENV"))
    assert not re.search(r"^(HOST|PORT)=", (ROOT / ".env.example").read_text(), re.MULTILINE)


@pytest.mark.parametrize("running", [True, False])
def test_the_health_check_fails_if_the_container_does_not_serve(simulator, running):
    command = json.loads(_the_only("HEALTHCHECK").partition("CMD ")[2])
    with running_service(REPLICATE_BASE_URL=simulator.url) as service:
        port = service.port if running else 1
        checked = subprocess.run(
            [sys.executable, *command[1:]], env={"PORT": str(port)}, capture_output=True, check=False
        )

    assert running is (checked.returncode == 0)


def test_docker_waits_longer_than_a_drain_may_take(tmp_path):
    compose = (ROOT / "compose.yaml").read_text()
    minutes = int(re.search(r"stop_grace_period: (\d+)m", compose)[1])
    ask = f"import runpy; print(runpy.run_path('{ROOT}/gunicorn.conf.py')['graceful_timeout'])"
    told = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip

    assert minutes * 60 >= int(told.stdout)


SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def _started_with(name: str) -> set[str]:
    """The services that `docker compose up NAME` starts."""
    return {name}.union(*(_started_with(each) for each in SERVICES[name].get("depends_on", ())))


def test_the_profile_with_postgresql_starts_two_instances_behind_a_balancer_and_no_other():
    profile = {name for name, service in SERVICES.items() if service.get("profiles") == ["postgres"]}

    assert {"balancer", "one", "two", "postgres"} == profile == _started_with("balancer")
    assert {"replicate-concurrent"} == SERVICES.keys() - profile
    caddyfile = (ROOT / "deploy" / "compose" / "Caddyfile").read_text()
    assert "reverse_proxy one:5000 two:5000 {" in caddyfile
    assert "health_uri /health/ready" in caddyfile
    for name in ("one", "two"):
        assert "/health/ready" in SERVICES[name]["healthcheck"]["test"][-1]
        assert "ports" not in SERVICES[name]


def test_an_instance_of_compose_differs_from_the_single_one_only_in_what_the_profile_needs():
    single, instance = SERVICES["replicate-concurrent"], SERVICES["one"]

    assert SERVICES["two"] == instance
    assert {"depends_on", "environment", "healthcheck", "profiles"} == {
        name for name in instance if instance[name] != single.get(name)
    }
    environ = {
        name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in instance["environment"].items()
    }
    Settings.from_env(environ).check_for_start()
    postgres = SERVICES["postgres"]["environment"]
    assert (
        environ["DATABASE_URL"]
        == f"postgresql://{postgres['POSTGRES_USER']}@postgres/{postgres['POSTGRES_DB']}"
    )


def test_images_that_are_not_built_here_have_a_version():
    named = [each["image"] for each in SERVICES.values() if "build" not in each]

    assert named
    assert [] == [image for image in named if not re.search(r":\d+\.\d+", image)]


def test_no_secret_file_is_sent_to_the_builder():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    assert "*" in ignored
    assert [] == [line for line in ignored if line.startswith("!") and "env" in line]
