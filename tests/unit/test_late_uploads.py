"""Files for a provider that takes them only after admission, since each of its uploads is a new file."""

import asyncio
from io import BytesIO

from catalog.references import INLINE, Upload
from providers.fingerprints import fingerprint
from providers.memory import MemoryProvider
from tests.support import virtual_time
from tests.support.callers import PNG
from tests.support.disconnect import a_service, held, on_record, outcomes
from tests.support.wiring import TransitionLedger, a_picture, run


class Late(MemoryProvider):
    """Counts its uploads, and recognizes creations by its last one."""

    uploads_early = False

    def __init__(self, **named) -> None:
        super().__init__(**named)
        self.uploads: list[float] = []
        self.contents: list[str] = []

    async def upload(self, caller, upload):  # noqa: ARG002
        self.uploads.append(asyncio.get_running_loop().time())
        await asyncio.sleep(2)
        return f"https://memory.invalid/{len(self.uploads)}"

    def content_of(self, sent):
        return sent["input_image"]

    async def create(self, *arguments, content, **named):
        self.contents.append(content)
        return await super().create(*arguments, content=content, **named)


def editing():
    image = Upload(BytesIO(PNG.ljust(INLINE + 1)))
    return a_picture(model_name="kontext-max", input_image=image)


def test_files_are_uploaded_once_and_only_after_admission():
    async def scenario():
        _, inside = a_service(provider := Late(ends_after=10))
        await asyncio.gather(run(inside, editing()), run(inside, editing()))
        return provider.uploads, provider.contents

    uploads, contents = virtual_time.run(scenario())

    assert [0.0, 12.25] == uploads
    assert ["https://memory.invalid/1", "https://memory.invalid/2"] == contents


def test_work_interrupted_during_its_upload_is_left_queued_and_unsent():
    async def scenario():
        gate, inside = a_service(provider := Late(), ledger=(ledger := TransitionLedger()))
        caller = asyncio.create_task(run(inside, editing()))
        await asyncio.sleep(1)
        await inside.supervisor.drain(0)
        return await outcomes(caller), provider.sent, on_record(ledger), held(gate)[0]

    assert (["shutting_down"], [], [("queued", None, False)], 0) == virtual_time.run(scenario())


def test_a_provider_that_uploads_early_recognizes_creations_by_all_of_their_input():
    assert fingerprint({"prompt": "a"}) == MemoryProvider().content_of({"prompt": "a"})
