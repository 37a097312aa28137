"""Any bytes either pass or raise the errors of the package, and reading stays within its bounds."""

import io
import random
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.build import Part, build
from datasets.contents import BLOCK, Broken, Content, Effort
from datasets.examine import examine
from datasets.refusals import DatasetRefused, WeightsBroken
from datasets.weights import check_weights
from media.formats import media_type
from media.pictures import size_of
from tests.support.zips import Member, deflated, described, image, images, zip64_of, zip_of
from tests.unit.datasets.test_weights import TRAINED, WHOLE, tar_of
from tests.unit.test_pictures import WHOLE as PICTURES
from tests.unit.test_pictures import drawn

SEEDS = [
    zip_of(*images(2), Member("me/", mode=0o040755), Member("a.txt", b"words", 8)),
    zip64_of(described(Member("a.png", image("PNG"), 8)), described(Member("b.txt", b"x"), form="<L2Q")),
    tar_of(TRAINED, format=tarfile.PAX_FORMAT),
    tar_of({"ö" * 200: b"x", **TRAINED}, format=tarfile.GNU_FORMAT),
    tar_of(TRAINED, "w:gz"),
    zip_of(Member("lora.safetensors", WHOLE, 8)),
    WHOLE,
]

EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from([b"", b"\0", b"\xff", b"\xff" * 4, b"PK\1\2", b"\7"]) | st.binary(max_size=8),
    ),
    min_size=1,
    max_size=4,
)


def edited(content, edits):
    for place, data in edits:
        at = int(place * len(content))
        content = content[:at] + data + content[at + len(data) :] if data else content[:at]
    return content


def outcomes(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        for function, refusal in ((examine, DatasetRefused), (check_weights, WeightsBroken)):
            try:
                yield function(path)
            except refusal:
                yield None


@given(
    st.binary(max_size=2000)
    | st.builds(lambda start, rest: start + rest, st.sampled_from(SEEDS), st.binary())
)
def test_any_bytes_pass_or_raise_the_own_errors(content):
    assert 2 == len(list(outcomes(content)))


@given(st.sampled_from(SEEDS), EDITS)
def test_a_changed_file_passes_or_raises_the_own_errors(seed, edits):
    assert 2 == len(list(outcomes(edited(seed, edits))))


@given(st.sampled_from(SEEDS[:2]), EDITS)
def test_a_file_that_passes_is_unpacked_by_the_standard_library_to_the_same(seed, edits):
    content = edited(seed, edits)
    dataset, _ = outcomes(content)
    if dataset is not None:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.testzip() is None
            assert dataset.unpacked == sum(each.file_size for each in archive.infolist())


@given(
    st.lists(
        st.tuples(st.text(max_size=10), st.sampled_from([image(), b"words", b"", b"\xff" * 9])), max_size=6
    )
)
def test_parts_of_any_names_are_built_or_refused(files):
    with tempfile.TemporaryDirectory() as folder:
        parts = []
        for number, (name, data) in enumerate(files):
            path = Path(folder) / str(number)
            path.write_bytes(data)
            parts.append(Part(name, path))
        target = Path(folder) / "built.zip"
        try:
            dataset = build(parts, target)
        except DatasetRefused:
            assert not target.exists()
        else:
            assert dataset == examine(target)


@given(
    st.binary(max_size=50), st.integers(0, 100_000), st.integers(0, 10_000), st.lists(st.integers(0, 70_000))
)
def test_a_content_never_gives_more_than_its_header_declares(data, zeros, declared, reads):
    packed = deflated(data + bytes(zeros))
    content = Content(io.BytesIO(packed), 0, 8, (len(packed), declared), Effort(10**6))
    read = 0
    try:
        for size in reads:
            read += len(content.read(size))
        content.finish(zlib.crc32(data + bytes(zeros)))
    except Broken:
        assert declared != len(data) + zeros
    else:
        assert declared == len(data) + zeros
    assert read <= declared


STILLS = {name: content for name, content in PICTURES.items() if not name.startswith("gif")}
STILLS["jpeg, large"] = drawn("JPEG", (1500, 1200), quality=100, progressive=True)


@pytest.mark.parametrize("method", [0, 8])
@pytest.mark.parametrize("content", STILLS.values(), ids=STILLS)
def test_every_kind_of_picture_is_read_as_from_a_file(content, method, tmp_path):
    """`Content` can go back only within its last read."""
    padded = content + random.Random(1).randbytes(2 * BLOCK)
    path = tmp_path / "images.zip"
    path.write_bytes(zip_of(Member("a.jpg", padded, method)))

    assert size_of(io.BytesIO(padded), media_type(padded)) == examine(path).smallest


def test_a_content_does_not_go_back_further_than_its_last_read():
    content = Content(io.BytesIO(bytes(3 * BLOCK)), 0, 0, (3 * BLOCK, 3 * BLOCK), Effort(9))
    content.read(BLOCK)
    content.read(BLOCK)
    content.seek(-BLOCK, 1)
    assert BLOCK == len(content.read(BLOCK))
    content.seek(0)
    with pytest.raises(ValueError, match="this was read already"):
        content.read(1)
