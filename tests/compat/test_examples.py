"""Scripts written for `replicate-batch-process`, run unchanged: the calls of each example in its README, and these
examples themselves, which its wheel carries."""

import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from harness.service_process import ROOT
from tests.support.callers import ADMIN_KEY

pytestmark = pytest.mark.slow

IMPORTS = os.pathsep.join(str(ROOT / each) for each in ("client", "client/compat"))

SINGLE = """
from replicate_batch_process import replicate_model_calling

file_paths = replicate_model_calling(
    prompt="Dusk over a ridge", model_name="qwen/qwen-image", output_filepath="output/dusk.jpg"
)
"""

SAME_MODEL = """
import asyncio
from replicate_batch_process import intelligent_batch_process

async def main():
    return await intelligent_batch_process(
        prompts=["dusk", "town", "wood"],
        model_name="qwen/qwen-image",
        max_concurrent=8,
        output_filepath=["output/dusk.png", "output/town.png", "output/wood.png"],
    )

if __name__ == "__main__":
    assert 3 == len(asyncio.run(main()))
"""

MIXED_MODELS = """
import asyncio
from replicate_batch_process import IntelligentBatchProcessor, BatchRequest

async def main():
    processor = IntelligentBatchProcessor()
    requests = [
        BatchRequest(prompt="A town", model_name="qwen/qwen-image", output_filepath="output/town.png",
                     kwargs={"aspect_ratio": "16:9"}),
        BatchRequest(prompt="A wood", model_name="google/imagen-4-ultra", output_filepath="output/wood.png",
                     kwargs={"output_quality": 90}),
        BatchRequest(prompt="Red hair", model_name="black-forest-labs/flux-kontext-max",
                     output_filepath="output/hair.png", kwargs={"input_image": "reference.jpg"}),
    ]
    return await processor.process_intelligent_batch(requests, max_concurrent=5)

results = asyncio.run(main())
assert [None] * 3 == [result.error for result in results]
"""

REFERENCE = """
from replicate_batch_process import replicate_model_calling

replicate_model_calling(
    prompt="Like this", model_name="black-forest-labs/flux-dev", input_image="path/to/image.jpg",
    output_filepath="output/like.png",
)
"""

PARAMETERS = """
from replicate_batch_process import replicate_model_calling

replicate_model_calling(
    prompt="A bay", model_name="black-forest-labs/flux-kontext-max", guidance=3.5, num_outputs=2,
    output_filepath="output/bay.png",
)
"""

MODULES = """
import asyncio
from replicate_batch_process.config import FALLBACK_MODELS, REPLICATE_MODELS
from replicate_batch_process.global_concurrency_manager import get_global_status
from replicate_batch_process.intelligent_batch_processor import (
    BatchRequest, BatchResult, IntelligentBatchProcessor, intelligent_batch_process,
)
from replicate_batch_process.main import replicate_model_calling, supports_reference_image

FALLBACK_MODELS["black-forest-labs/flux-schnell"] = {
    "fail": {"fallback_model": "qwen/qwen-image", "condition": "api_error"}
}
assert "qwen/qwen-image" in REPLICATE_MODELS
assert get_global_status()["available_slots"] > 0
processor = IntelligentBatchProcessor(
    max_concurrent=8, replicate_api_token="r8_mine", global_max_concurrent=60
)
requests = [BatchRequest("dusk [[nsfw]] [[only=flux-schnell]]", "black-forest-labs/flux-schnell", "output/dusk.png")]
(result,) = asyncio.run(processor.process_intelligent_batch(requests))
assert isinstance(result, BatchResult) and result.success and result.duration > 0
"""

SCRIPTS = {
    "one picture": (SINGLE, ["dusk.jpg"]),
    "many prompts": (SAME_MODEL, ["dusk.png", "town.png", "wood.png"]),
    "several models": (MIXED_MODELS, ["hair.png", "town.png", "wood.png"]),
    "a reference image": (REFERENCE, ["like.png"]),
    "parameters of another model": (PARAMETERS, ["bay_1.png", "bay_2.png"]),
    "modules and rules": (MODULES, ["dusk.png"]),
}


def run(script):
    environment = os.environ | {"PYTHONPATH": IMPORTS}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def photos(photo):
    """Puts the pictures that the examples name into a directory."""
    content = Path(photo).read_bytes()

    def put(directory):
        for name in ("reference.jpg", "path/to/image.jpg"):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content)

    return put


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_for_the_original_runs_unchanged_and_prints_nothing(name, photos, tmp_path):
    photos(tmp_path)
    script, files = SCRIPTS[name]
    done = run(script)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert files == sorted(path.name for path in Path("output").iterdir())


def test_the_examples_of_the_guide_run(monkeypatch):
    guide = (ROOT / "docs" / "migrate.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    monkeypatch.setenv("RCG_API_KEY", ADMIN_KEY)

    done = run("".join([*examples, "client.close()\n"]))  # they follow each other
    assert (0, "") == (done.returncode, done.stderr)
    assert ["lighthouse.jpg"] == [path.name for path in Path("out").iterdir()]
    assert "rcg_" in done.stdout


NO_PROGRAMS = ("process_batch", "process_large_batch")
"""In the examples that are no programs: they await outside of functions."""


def readme_of_the_original(directory):
    """The README of the original package, which its wheel carries. It is fetched and not installed."""
    [pinned] = re.findall(
        r"^replicate-batch-process==\S+", (ROOT / "requirements-bench.txt").read_text(), re.MULTILINE
    )
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*pip, "--dest", str(directory), pinned], check=True, capture_output=True, timeout=120)
    [wheel] = directory.glob("replicate_batch_process-*.whl")
    with ZipFile(wheel) as files:
        [metadata] = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        return files.read(metadata).decode()


def test_the_examples_of_the_readme_run_unchanged(photos, tmp_path):
    readme = readme_of_the_original(tmp_path / "wheel")
    examples = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    programs = [each for each in examples if not any(name in each for name in NO_PROGRAMS)]
    imported = "from replicate_batch_process import replicate_model_calling\n"

    assert 6 == len(programs)
    for number, each in enumerate(programs):
        directory = tmp_path / str(number)  # two examples write the same names
        photos(directory)
        done = run(f"import os; os.chdir({os.fspath(directory)!r})\n{imported}{each}")
        assert (0, "") == (done.returncode, done.stderr)
        assert "❌" not in done.stdout
