"""Families: which trained models can be checked without a look-up, in which version, and by which inputs."""

import pytest

from catalog.families import TrainedModels, trained_flux
from catalog.targets import Target

V1, V2 = "1" * 64, "2" * 64


def target(asked, *names):
    found = TrainedModels(names).target(Target.parse(asked))
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("asked", "names", "runs"),
    [
        (f"acme/fox:{V1}", ["acme/fox"], f"acme/fox:{V1}"),
        (f"acme/fox:{V1}", [f"acme/fox:{V2}"], f"acme/fox:{V1}"),
        ("acme/fox", [f"acme/fox:{V2}"], f"acme/fox:{V2}"),
        ("acme/fox", ["acme/fox", f"acme/fox:{V2}", f"acme/fox:{V2}"], f"acme/fox:{V2}"),
        ("acme/fox", ["acme/fox"], None),
        ("acme/fox", [f"acme/fox:{V1}", f"acme/fox:{V2}"], None),
        (f"acme/fox:{V1}", ["acme/hare", f"acme/fo:{V1}"], None),
        (f"acme/fox:{V1}", [], None),
        ("deployments/acme/fox", [f"acme/fox:{V1}"], None),
    ],
)
def test_a_trained_model_runs_the_version_that_is_named(asked, names, runs):
    assert runs == target(asked, *names)


def test_the_inputs_of_the_family_are_those_of_a_trained_flux_lora():
    inputs = trained_flux().inputs

    assert ["prompt"] == [name for name, each in inputs.fields.items() if each.required]
    assert ("dev", "schnell") == inputs["model"].choices
    assert (-1, 3) == (inputs["lora_scale"].minimum, inputs["lora_scale"].maximum)
    assert {"replicate_weights", "extra_lora"} == {
        name for name, each in inputs.fields.items() if each.content == "weights"
    }
    assert {"image", "mask"} == {name for name, each in inputs.fields.items() if each.content == "file"}
    assert inputs.lenient
