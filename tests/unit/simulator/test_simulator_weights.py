"""The log of a training, its weights, and the images that it finds."""

import io
import itertools
import json
import re
import struct
import tarfile
import zipfile

import pytest
import requests

from datasets.refusals import WeightsBroken
from datasets.weights import check_weights
from simulator import Options, running, training_logs, weights
from simulator.archives import ImageCounter
from simulator.model import Trainer
from tests.unit.simulator.creations import (
    FAST,
    IMAGES,
    OSTRIS,
    QWEN,
    SDXL,
    run_trainings_in_virtual_time,
    zip_of,
)

LORA = "output/flux_train_replicate/lora.safetensors"
BAR = re.compile(r"^([^:]+):\s+(\d+)%\|.{10}\| (\d+)/(\d+) \[\S+<\S+, .*\]$")


@pytest.fixture
def trained(caller):
    """Trains and returns the URL of the weights."""
    images, destination = caller.upload(IMAGES), caller.destination()

    def run(word="FOX", *, trainer=OSTRIS, name="input_images", **inputs):
        inputs |= {} if trainer == QWEN else {"trigger_word": word}
        made = caller.train(trainer, destination, **{name: images}, **inputs).json()
        return caller.training(made)["output"]["weights"]

    return run


def tensors(content):
    """The tensors of a safetensors file as (shape, bytes), and its metadata. Raises ValueError if it is incomplete."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    data = content[8 + size :]
    metadata = header.pop("__metadata__")
    found = {}
    for name, each in header.items():
        start, end = each["data_offsets"]
        if end > len(data) or end - start != 4 * each["shape"][0] * each["shape"][1]:
            raise ValueError(name)
        found[name] = (each["shape"], data[start:end])
    return found, metadata


def read(content, name):
    """A file of an archive."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.read(name)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.extractfile(name).read()


def names(content):
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.namelist()
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return archive.getnames()


@pytest.mark.parametrize(
    ("trainer", "name", "lora", "beside", "content_type", "rank"),
    [
        (OSTRIS, "input_images", LORA, "output/flux_train_replicate/captions/2.txt", "application/x-tar", 16),
        (FAST, "input_images", LORA, "output/flux_train_replicate/captions/0.txt", "application/x-tar", 16),
        (QWEN, "dataset", "lora.safetensors", "config.yaml", "application/zip", 64),
        (SDXL, "input_images", "lora.safetensors", "special_params.json", "application/x-tar", 32),
    ],
)
def test_the_weights_of_each_trainer_have_a_lora_of_the_rank(
    trained, trainer, name, lora, beside, content_type, rank
):
    answer = requests.get(trained(trainer=trainer, name=name), timeout=20)
    found, metadata = tensors(read(answer.content, lora))

    assert (200, content_type) == (answer.status_code, answer.headers["Content-Type"])
    assert beside in names(answer.content)
    assert {"format": "pt", "rank": str(rank)} == metadata
    assert {rank} == {max(shape) for shape, _ in found.values()}


@pytest.mark.parametrize(("trainer", "name"), [(OSTRIS, "input_images"), (QWEN, "dataset")])
def test_the_service_takes_the_weights_for_whole(tmp_path, trained, trainer, name):
    file = tmp_path / "weights"
    file.write_bytes(requests.get(trained(trainer=trainer, name=name), timeout=20).content)

    assert 4 == check_weights(file).tensors


@pytest.mark.parametrize("word", ["[[torn]]", "[[cut]]", "[[blank]]", "[[page]]"])
def test_the_service_takes_damaged_weights_for_broken(tmp_path, trained, word):
    file = tmp_path / "weights"
    file.write_bytes(requests.get(trained(word), timeout=20).content)

    with pytest.raises(WeightsBroken):
        check_weights(file)


def test_the_weights_are_the_same_at_each_download(trained):
    url = trained(lora_rank=4)

    assert requests.get(url, timeout=20).content == requests.get(url, timeout=20).content


def test_torn_weights_lack_the_end_of_the_lora_in_a_whole_archive(trained):
    content = requests.get(trained("[[torn]]"), timeout=20).content

    with pytest.raises(ValueError, match="lora_"):
        tensors(read(content, LORA))


def test_cut_weights_are_no_whole_archive(trained):
    answer = requests.get(trained("[[cut]]", lora_rank=128), timeout=20)

    assert int(answer.headers["Content-Length"]) == len(answer.content)
    with pytest.raises(tarfile.ReadError):
        read(answer.content, LORA)


@pytest.mark.parametrize(("word", "status", "size"), [("[[gone]]", 404, None), ("[[blank]]", 200, 0)])
def test_weights_can_be_missing_or_empty(trained, word, status, size):
    answer = requests.get(trained(word), timeout=20)

    assert status == answer.status_code
    assert size in (None, len(answer.content))


def test_weights_vanish_an_hour_after_the_end(clock, trained):
    url = trained()

    clock.advance(seconds=3600)
    assert 200 == requests.get(url, timeout=20).status_code
    clock.advance(seconds=1)
    assert 404 == requests.get(url, timeout=20).status_code


def test_faults_serve_the_weights_later_or_elsewhere_and_leave_other_downloads_alone(sim, caller, trained):
    url = trained()
    sim.inject(on="weights", times=2, status=404)
    sim.inject(on="weights", status=302, headers={"Location": "http://localhost:1/w.tar"})
    picture = caller.outcome()["output"][0]

    assert 200 == requests.get(picture, timeout=20).status_code
    answers = [requests.get(url, timeout=20, allow_redirects=False) for _ in range(4)]
    assert [404, 404, 302, 200] == [each.status_code for each in answers]
    assert "http://localhost:1/w.tar" == answers[2].headers["Location"]
    assert (4, 1) == tuple(sim.counts().requests[each] for each in ("weights", "delivery"))


def test_a_truncated_download_breaks_off(sim, trained):
    url = trained()
    sim.inject(on="weights", truncate=True)

    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        requests.get(url, timeout=20)


def test_a_token_is_not_needed_and_is_counted(sim, caller, trained):
    url = trained()
    requests.get(url, timeout=20)
    assert 0 == sim.counts().deliveries_with_token
    requests.get(url, headers=caller.session.headers, timeout=20)
    assert 1 == sim.counts().deliveries_with_token


def test_weights_can_need_the_token_of_their_account(make_caller):
    with running(Options(training_seconds=0, weights_need_token=True)) as simulator:
        caller, other = make_caller(simulator.url), make_caller(simulator.url, "r8_other")
        made = caller.train(OSTRIS, caller.destination(), input_images="https://x.example/a.zip").json()
        url = made["output"]["weights"]
        tokens = [{}, other.session.headers, caller.session.headers]

        assert [401, 401, 200] == [
            requests.get(url, headers=headers, timeout=20).status_code for headers in tokens
        ]
        assert 0 == simulator.counts().deliveries_with_token


def test_a_log_starts_with_its_images_and_ends_with_its_last_step(caller):
    images = caller.upload(IMAGES)
    made = caller.train(OSTRIS, caller.destination(), input_images=images, steps=50).json()
    log = caller.training(made)["logs"]

    assert log.startswith("Extracted 3 files from zip to input_images\n")
    assert "flux_train_replicate: 100%|██████████| 50/50 [" in log.splitlines()[-1]


def test_a_log_is_empty_before_the_start_and_grows_during_the_run():
    _, _, seen = run_trainings_in_virtual_time({}, looks=range(0, 110, 10))
    logs = [each["logs"] for each in seen]

    assert "" == logs[0]
    assert all(after.startswith(before) for before, after in itertools.pairwise(logs))
    assert [len(logs[10]), 11] == [len(logs[-1]), len(set(logs))]


@pytest.mark.parametrize("word", ["[[hang]]", "[[fail]]", "[[nsfw]]"])
def test_the_log_of_a_training_that_hangs_or_fails_stays_as_it_is(word):
    _, _, seen = run_trainings_in_virtual_time({"trigger_word": word}, looks=(50, 4000, 8000))

    assert "flux_train_replicate:" in seen[0]["logs"]
    assert seen[1]["logs"] == seen[2]["logs"]
    assert seen[1]["logs"].startswith(seen[0]["logs"])


def test_a_training_that_finds_no_images_has_no_log(caller):
    training = caller.training(caller.train(OSTRIS, caller.destination()).json())

    assert ("failed", "") == (training["status"], training["logs"])


def bars(share, **changes):
    """The (label, per cent, count, total) of the bars of a log."""
    known = {"images": 12, "steps": 3000, "captions": True, "rate": 4e-4, "seconds": 3134.4}
    lines = training_logs.lines(Trainer(), share=share, **(known | changes))
    return [found.groups() for line in lines if (found := BAR.match(line))]


def test_every_bar_before_the_training_reaches_a_hundred_per_cent_first():
    whole = bars(1.0)
    labels = list(dict.fromkeys(label for label, *_ in whole))

    assert [
        *("Loading pipeline components...", "Captioning images", "Caching latents", "flux_train_replicate")
    ] == labels
    assert dict.fromkeys(labels, "100") == {label: percent for label, percent, *_ in whole}
    assert ("flux_train_replicate", "3000", "3000") == (whole[-1][0], whole[-1][2], whole[-1][3])


def test_a_log_without_captions_has_no_bar_of_them():
    assert "Captioning images" not in {label for label, *_ in bars(1.0, captions=False)}


@pytest.mark.parametrize("steps", [3, 999, 1000, 2482, 6000])
def test_a_log_only_grows(steps):
    logs = [bars(each / 200, steps=steps) for each in range(201)]

    assert all(after[: len(before)] == before for before, after in itertools.pairwise(logs))
    assert len({len(each) for each in logs}) > 20
    assert (str(steps), str(steps)) == logs[-1][-1][2:]
    assert all(each[-1][2:] != logs[-1][-1][2:] for each in logs[:-1])


def test_a_bar_has_the_form_of_the_real_ones():
    line = training_logs.bar("flux_train_replicate", 2482, 3000, 2607.0, ", lr: 4.0e-04 loss: 2.472e-01")

    expected = "2482/3000 [43:27<09:04,  1.05s/it, lr: 4.0e-04 loss: 2.472e-01]"
    assert f"flux_train_replicate:  83%|████████▎ | {expected}" == line


@pytest.mark.parametrize("mode", ["zip", "tar"])
@pytest.mark.parametrize("size", [1, 7, 512, 1000, 2**16])
def test_images_are_counted_in_pieces_of_any_size(mode, size):
    content = zip_of(
        "a.jpg", "folder/b.PNG", "c.webp", "d.jpeg", "a.txt", "__MACOSX/._a.jpg", ".x.jpg", mode=mode
    )
    counter = ImageCounter()
    for start in range(0, len(content), size):
        counter.feed(content[start : start + size])

    assert 4 == counter.number()


def test_the_images_of_a_large_zip_are_counted():
    content = zip_of(*(f"{'folder' * 30}/{number}.jpg" for number in range(10_000)))
    counter = ImageCounter()
    for start in range(0, len(content), 2**16):
        counter.feed(content[start : start + 2**16])

    assert 10_000 == counter.number()


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"\0" * 2000, b"x" * 2000, IMAGES[:-30]])
def test_other_bytes_than_an_archive_have_no_images(content):
    counter = ImageCounter()
    counter.feed(content)

    assert 0 == counter.number()


def test_a_lora_is_eight_bytes_of_length_a_header_and_its_tensors():
    content = weights.safetensors(("layer",), rank=2, seed=5)
    found, _ = tensors(content)

    assert {"layer.lora_A.weight": [2, 4], "layer.lora_B.weight": [4, 2]} == {
        name: shape for name, (shape, _) in found.items()
    }
    assert 8 + struct.unpack("<Q", content[:8])[0] + 2 * 32 == len(content)
