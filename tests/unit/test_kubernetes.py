"""The manifests in `deploy/kubernetes` are valid, and agree with the image, the routes and the settings."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from api.openapi.operations import paths
from settings import Settings

ROOT = Path(__file__).parents[2]
MANIFESTS = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob("deploy/kubernetes/*.yaml"))
}
DEPLOYMENT, SERVICE, VOLUME = (MANIFESTS[name] for name in ("deployment", "service", "volume"))
REPLICAS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in sorted(ROOT.glob("deploy/kubernetes/replicas/*.yaml"))
}
MANY = REPLICAS["deployment"]
MANY_POD = MANY["spec"]["template"]
(MANY_CONTAINER,) = MANY_POD["spec"]["containers"]
POD = DEPLOYMENT["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["replicate-concurrent"]
MODULES = {"apps/v1": "apps_v1", "policy/v1": "policy_v1", "v1": "core_v1"}
PROBES = {name: CONTAINER[name]["httpGet"] for name in CONTAINER if name.endswith("Probe")}


SCHEMA = ModuleType("lightkube.core.schema", "The part of lightkube's client that its models import.")
strictly = with_config(ConfigDict(extra="forbid", strict=True))
vars(SCHEMA).update(dataclass=lambda made: strictly(dataclass(made)), field=field, DictMixin=object)


def valid(manifest):
    """The manifest by the types of Kubernetes' own OpenAPI document. Raises ValidationError."""
    sys.modules.setdefault(SCHEMA.__name__, SCHEMA)  # the client itself is not installed
    module = import_module(f"lightkube.models.{MODULES[manifest['apiVersion']]}")
    kind = getattr(module, manifest["kind"])
    return TypeAdapter(kind).validate_json(json.dumps(manifest))


def instruction(name):
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, re.MULTILINE)[-1]


@pytest.mark.parametrize(
    "manifest",
    [*MANIFESTS.values(), *REPLICAS.values()],
    ids=[*MANIFESTS, *(f"replicas-{each}" for each in REPLICAS)],
)
def test_a_manifest_has_the_fields_and_types_of_kubernetes_and_no_other(manifest):
    valid(manifest)

    for wrong in ({"spec": {**manifest["spec"], "unknown": 1}}, {"metadata": {"name": 3}}):
        with pytest.raises(ValidationError):
            valid(manifest | wrong)


def test_a_wrong_field_deep_inside_a_manifest_is_noticed():
    wrong = {**CONTAINER, "readinessProbe": {"httpget": PROBES["readinessProbe"]}}
    pod = {**POD, "spec": {**POD["spec"], "containers": [wrong]}}

    with pytest.raises(ValidationError, match="httpget"):
        valid({**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], "template": pod}})


def test_no_second_pod_runs_beside_the_first():
    assert (1, {"type": "Recreate"}) == (DEPLOYMENT["spec"]["replicas"], DEPLOYMENT["spec"]["strategy"])


def test_the_service_and_the_deployment_select_the_pod():
    labels = POD["metadata"]["labels"]

    assert labels == DEPLOYMENT["spec"]["selector"]["matchLabels"] == SERVICE["spec"]["selector"]


def test_the_ports_are_those_of_the_image():
    (port,) = CONTAINER["ports"]
    (served,) = SERVICE["spec"]["ports"]

    assert instruction("EXPOSE") == str(port["containerPort"]) == str(Settings.model_fields["PORT"].default)
    assert {port["name"]} == {served["targetPort"], *(probe["port"] for probe in PROBES.values())}


def test_a_probe_that_kills_asks_for_liveness_and_one_that_routes_for_readiness():
    assert {"startupProbe", "livenessProbe", "readinessProbe"} == set(PROBES)
    probed = {name: probe["path"] for name, probe in PROBES.items()}

    assert "/health/live" == probed["startupProbe"] == probed["livenessProbe"]
    assert "/health/ready" == probed["readinessProbe"]
    assert set(probed.values()) <= paths().keys()


def test_the_pod_has_the_image_user_and_data_of_the_container():
    (mounted,) = CONTAINER["volumeMounts"]
    (volume,) = POD["spec"]["volumes"]
    context = POD["spec"]["securityContext"]

    assert COMPOSE["image"] == CONTAINER["image"]
    assert instruction("USER") == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert context["runAsGroup"] == context["fsGroup"]
    assert (instruction("VOLUME"), mounted["name"]) == (mounted["mountPath"], volume["name"])
    assert VOLUME["metadata"]["name"] == volume["persistentVolumeClaim"]["claimName"]


def test_the_pod_may_do_no_more_than_the_container_of_compose():
    context = CONTAINER["securityContext"]

    assert COMPOSE["read_only"] is context["readOnlyRootFilesystem"] is True
    assert COMPOSE["cap_drop"] == context["capabilities"]["drop"]
    assert context["allowPrivilegeEscalation"] is False


def test_the_volume_has_room_for_the_outputs_and_as_much_again():
    gibibytes = int(VOLUME["spec"]["resources"]["requests"]["storage"].removesuffix("Gi"))

    assert gibibytes * 2**30 >= 2 * Settings.model_fields["FILES_MAX_BYTES"].default


def test_kubernetes_waits_longer_than_a_drain_may_take(tmp_path):
    ask = f"import runpy; print(runpy.run_path('{ROOT}/gunicorn.conf.py')['graceful_timeout'])"
    printed = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip

    assert POD["spec"]["terminationGracePeriodSeconds"] >= int(printed.stdout)


PATCH = yaml.safe_load((ROOT / "deploy/kubernetes/secret-files/patch.yaml").read_text())
FILES = yaml.safe_load((ROOT / "deploy/compose/secrets.yaml").read_text())
FORMS = {f"{name}_FILE" for name in Settings.secret_names()}


@pytest.mark.parametrize("deployment", [DEPLOYMENT, MANY])
def test_secrets_can_be_mounted_as_files_into_each_deployment(deployment):
    patch, pod = PATCH["spec"]["template"]["spec"], deployment["spec"]["template"]["spec"]
    (container,), (patched,) = pod["containers"], patch["containers"]
    (mounted,), (volume,) = patched["volumeMounts"], patch["volumes"]
    added = {name: [*container.get(name, []), *patched[name]] for name in ("env", "volumeMounts")}
    spec = {**pod, "containers": [{**container, **added}], "volumes": [*pod["volumes"], volume]}
    valid({**deployment, "spec": {**deployment["spec"], "template": {"spec": spec}}})

    assert container["name"] == patched["name"]
    assert {each["name"] for each in patched["env"]} <= FORMS
    assert {mounted["mountPath"]} == {each["value"].rpartition("/")[0] for each in patched["env"]}
    document = (ROOT / "docs/operations.md").read_text()
    files = " ".join(f"--from-file={each['value'].rpartition('/')[2]}" for each in patched["env"])
    assert f"create secret generic {volume['secret']['secretName']} {files}" in document


def test_secrets_can_be_mounted_as_files_into_the_container_of_compose():
    (service,) = FILES["services"].values()

    assert {*FILES["services"]} <= {*yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]}
    assert service["environment"].keys() <= FORMS
    assert {*service["environment"].values()} == {f"/run/secrets/{each}" for each in service["secrets"]}
    assert {*service["secrets"]} == {*FILES["secrets"]}


def test_settings_come_from_a_secret_that_the_documents_create():
    (source,) = CONTAINER["envFrom"]
    operations = (ROOT / "docs" / "operations.md").read_text()

    assert f"kubectl create secret generic {source['secretRef']['name']} --from-env-file=.env" in operations
    assert POD["spec"]["enableServiceLinks"] is False


# ── Several replicas


def test_replicas_differ_from_a_single_pod_only_in_what_their_number_needs():
    spec, container = MANY_POD["spec"], MANY_CONTAINER

    assert {"env", "lifecycle", "volumeMounts"} == {
        name for name in container if container[name] != CONTAINER.get(name)
    }
    assert {"containers", "terminationGracePeriodSeconds", "topologySpreadConstraints", "volumes"} == {
        name for name in spec if spec[name] != POD["spec"].get(name)
    }
    assert (
        SERVICE["spec"]["selector"]
        == MANY_POD["metadata"]["labels"]
        == MANY["spec"]["selector"]["matchLabels"]
    )


def test_an_upgrade_and_a_drain_of_nodes_leave_a_replica_that_serves():
    budget = REPLICAS["disruption-budget"]["spec"]
    rolling = MANY["spec"]["strategy"]["rollingUpdate"]

    assert MANY["spec"]["selector"] == budget["selector"]
    assert MANY["spec"]["replicas"] > max(budget["maxUnavailable"], rolling["maxUnavailable"])
    (spread,) = MANY_POD["spec"]["topologySpreadConstraints"]
    assert budget["selector"] == spread["labelSelector"]


def test_kubernetes_waits_for_a_replica_as_long_and_for_the_pause_before_its_stop():
    pause = MANY_CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert (
        POD["spec"]["terminationGracePeriodSeconds"] + pause
        <= MANY_POD["spec"]["terminationGracePeriodSeconds"]
    )


def test_replicas_share_their_outputs_and_nothing_else():
    mounts = {each["name"]: each["mountPath"] for each in MANY_CONTAINER["volumeMounts"]}
    volumes = {each["name"]: each for each in MANY_POD["spec"]["volumes"]}
    claim = REPLICAS["volume"]

    assert instruction("VOLUME") == mounts["data"]
    assert {} == volumes["data"]["emptyDir"]
    assert claim["metadata"]["name"] == volumes["files"]["persistentVolumeClaim"]["claimName"]
    assert ["ReadWriteMany"] == claim["spec"]["accessModes"]
    assert VOLUME["spec"]["resources"] == claim["spec"]["resources"]
    environ = {each["name"]: each.get("value") for each in MANY_CONTAINER["env"]}
    assert mounts["files"] == environ["FILES_DIR"]


def test_replicas_start_with_the_settings_of_their_manifest_and_a_public_url():
    environ = {each["name"]: each.get("value", "postgresql://ledger") for each in MANY_CONTAINER["env"]}

    Settings.from_env(environ | {"PUBLIC_URL": "https://here.example"}).check_for_start()
    (database,) = [each["valueFrom"]["secretKeyRef"] for each in MANY_CONTAINER["env"] if "valueFrom" in each]
    operations = (ROOT / "docs" / "operations.md").read_text()
    assert f"kubectl create secret generic {database['name']} --from-literal={database['key']}=" in operations
