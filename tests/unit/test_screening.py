"""The content of a generation that a service gets, and the memory that its images take meanwhile."""

import asyncio
from io import BytesIO
from types import SimpleNamespace

import pytest

from catalog.references import INLINE, Upload
from errors.content import ContentRefused
from generations.room import Room
from generations.screening import MOST_PICTURE_BYTES, Screening
from safety.judging import Judge, Service, Verdict
from tests.support.callers import PNG
from tests.support.declarations import parse_generation
from tests.support.wiring import ADMIN

SIZE = INLINE + 1


class Counting(Service):
    """Allows all contents, and counts how many it has at the same time."""

    def __init__(self, takes_images=True):
        self.takes_images = takes_images
        self.contents, self.at_once, self.most = [], 0, 0

    async def judge(self, content):
        self.contents.append(content)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        for _ in range(100):
            await asyncio.sleep(0)
        self.at_once -= 1
        return Verdict(True)

    async def aclose(self):
        pass


def generation(prompt, image):
    request = parse_generation({"model_name": "kontext-max", "prompt": prompt, "input_image": image})
    return SimpleNamespace(request=request, caller=ADMIN, attempts=[], verdict=None, queued_seconds=0.0)


def checked(service, generations, room=None):
    async def run():
        judge = Judge(service, timeout=60, allows_failed=False)
        screening = Screening(SimpleNamespace(mark_dirty=lambda each: None), judge, room)
        await asyncio.gather(*(screening.check(each, None) for each in generations))

    asyncio.run(run())


def test_uploaded_images_of_a_batch_wait_for_room_before_they_are_read():
    image, service = Upload(BytesIO(PNG.ljust(SIZE))), Counting()

    checked(service, [generation(str(number), image) for number in range(8)], Room(4 * SIZE, 3 * SIZE))

    assert (8, 2) == (len(service.contents), service.most)
    assert 1 == len({each.images for each in service.contents})


def test_a_service_that_judges_no_images_gets_none_of_any_size():
    image, service = Upload(BytesIO(PNG.ljust(MOST_PICTURE_BYTES + 1))), Counting(takes_images=False)

    checked(service, [generation("a", image)])

    assert [()] == [each.images for each in service.contents]
    with pytest.raises(ContentRefused, match="more than 20 MB"):
        checked(Counting(), [generation("a", image)])
