"""Creations for tests of the simulator without HTTP, and their predictions in virtual time."""

import asyncio
import io
import tarfile
import zipfile

from simulator import Options, representations
from simulator.predictions import Creation
from simulator.registry import Registry
from simulator.state import SimulatorState
from simulator.trainings import TrainingCreation
from tests.support import virtual_time

FLUX_DEV = "black-forest-labs/flux-dev"
PRO = "black-forest-labs/flux-1.1-pro"
BANANA = "google/nano-banana"
VEO = "google/veo-3-fast"
KLING = "kwaivgi/kling-v2.1-master"

WATERCOLOR = "acme/watercolor"
"""A trained LoRA, as all `acme` models shipped with the simulator."""

OSTRIS = "ostris/flux-dev-lora-trainer"
FAST = "replicate/fast-flux-trainer"
QWEN = "qwen/qwen-image-lora-trainer"
SDXL = "stability-ai/sdxl"

MINE = {"Authorization": "Bearer r8_mine"}
OTHERS = {"Authorization": "Bearer r8_other"}


def creation(
    prompt="a fox",
    *,
    model=FLUX_DEV,
    deployment=None,
    token="r8_mine",
    cancel_after=None,
    models=None,
    **given,
):
    models = models or Registry(Options())
    found = models.find(model, token=token)
    return Creation(
        model=found,
        version="hidden" if found.is_official else found.version,
        deployment=deployment and models.deployment(deployment, token=token),
        token=token,
        input=({} if prompt is None else {"prompt": prompt}) | given,
        body={},
        headers={},
        base_url="http://replicate.test",
        cancel_after=cancel_after,
        webhook=None,
        webhook_events=frozenset(),
        size=10,
    )


def zip_of(*names, mode="zip"):
    """An archive with files of these names, a zip or a tar."""
    packed = io.BytesIO()
    if mode == "zip":
        with zipfile.ZipFile(packed, "w") as archive:
            for name in names:
                archive.writestr(name, name.encode() * 100)
        return packed.getvalue()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in names:
            content = name.encode() * 100
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


IMAGES = zip_of("a.jpg", "b.png", "c.webp", "a.txt", "__MACOSX/._a.jpg", ".hidden.jpg")
"""A zip with three images."""


def run_in_virtual_time(*creations, cancelled_after=None, seconds=10, **options):
    """The records of predictions that take `seconds`, and the counts, an hour after their creation."""

    async def main():
        loop = asyncio.get_running_loop()
        world = SimulatorState(
            Options(prediction_seconds=seconds, jitter=0, **options), clock=lambda: round(loop.time() * 1e9)
        )
        made = [world.create(each) for each in creations]
        if cancelled_after is not None:
            await asyncio.sleep(cancelled_after)
            for each in made:
                world.predictions.cancel(each)
        await asyncio.sleep(3600)
        records, counts = [each.record() for each in made], world.counters.snapshot()
        await world.close()
        return records, counts

    return virtual_time.run(main())


def training(models, *, trainer=OSTRIS, **inputs):
    """The creation of a training with these inputs beside its images."""
    model = models.find(trainer, token="r8_mine")
    return TrainingCreation(
        model=model,
        version=model.version,
        destination="acme/destination",
        token="r8_mine",
        input={"input_images": "https://example.com/images.zip"} | inputs,
        body={},
        headers={},
        base_url="http://replicate.test",
        cancel_after=None,
        webhook=None,
        webhook_events=frozenset(),
        size=10,
    )


def run_trainings_in_virtual_time(*inputs, trainer=OSTRIS, seconds=100, cancelled_after=None, looks=()):
    """The records of trainings that take `seconds`, and the counts, a day after their creation, and the first training
    as its caller sees it at the moments of `looks`, in seconds after its creation."""

    async def main():
        loop = asyncio.get_running_loop()
        world = SimulatorState(
            Options(training_seconds=seconds, jitter=0), clock=lambda: round(loop.time() * 1e9)
        )
        made = [world.train(training(world.models, trainer=trainer, **each)) for each in inputs]
        start, seen = loop.time(), []
        for moment in looks:
            await asyncio.sleep(start + moment - loop.time())
            seen.append(representations.training(made[0]))
        if cancelled_after is not None:
            await asyncio.sleep(cancelled_after)
            for each in made:
                world.trainings.cancel(each)
        await asyncio.sleep(24 * 3600)
        records, counts = [each.record() for each in made], world.counters.snapshot()
        await world.close()
        return records, counts, seen

    return virtual_time.run(main())
