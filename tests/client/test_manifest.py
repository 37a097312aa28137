"""The manifest of a batch: what a run knows of the runs before it."""

import json
from dataclasses import replace

import pytest
from replicate_concurrent.batches.manifest import Line, Manifest, ManifestError


@pytest.fixture
def manifest(tmp_path):
    with Manifest(tmp_path) as opened:
        yield opened


def begun(manifest, *digests):
    lines = [
        Line(manifest.key(digest, 0), digest, index, f"{digest}.{{ext}}", 12.5)
        for index, digest in enumerate(digests, 1)
    ]
    manifest.begin(lines, "{slug}.{ext}")
    return lines


def test_rows_are_in_the_file_when_begin_returns(manifest):
    begun(manifest, "one", "two")

    kinds = [json.loads(line)["type"] for line in manifest.path.read_bytes().splitlines()]
    assert ["manifest", "name", "row", "row"] == kinds


def test_a_later_run_knows_all_that_was_written(tmp_path, manifest):
    one, two = begun(manifest, "one", "two")
    manifest.accepted("batch_1", [one.key, two.key])
    manifest.ended(replace(one, generation="gen_1", status="succeeded", files=("one.jpg",), cost_usd=0.5))
    manifest.ended(replace(two, generation="gen_2", status="failed", error={"code": "generation_failed"}))
    known, name = manifest.latest(), manifest.id
    manifest.close()

    with Manifest(tmp_path) as later:
        assert (name, "{slug}.{ext}") == (later.id, later.template)
        assert known["two"].error == later.latest()["two"].error
        assert (("one.jpg",), 0.5, "batch_1") == (
            later.latest()["one"].files, later.latest()["one"].cost_usd, later.latest()["one"].batch,
        )  # fmt: skip
        assert (True, False) == (later.latest()["one"].is_done, later.latest()["two"].is_done)


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_that_a_kill_has_cut_short_is_dropped_and_the_next_one_is_whole(tmp_path, manifest, cut):
    begun(manifest, "one", "two")
    manifest.close()
    manifest.path.write_bytes(manifest.path.read_bytes()[:-cut])

    with Manifest(tmp_path) as later:
        assert ["one"] == list(later.latest())
        begun(later, "three")
    with Manifest(tmp_path) as latest:
        assert ["one", "three"] == list(latest.latest())


def test_a_line_that_is_damaged_before_the_last_one_is_an_error(tmp_path, manifest):
    begun(manifest, "one")
    manifest.close()
    manifest.path.write_bytes(b"\x00\n" + manifest.path.read_bytes())

    with pytest.raises(ManifestError, match=r"manifest.jsonl line 1: cannot be read"):
        Manifest(tmp_path)


def test_two_processes_cannot_run_one_batch(tmp_path, manifest):
    with pytest.raises(ManifestError, match="another process runs this batch"):
        Manifest(tmp_path)

    manifest.close()
    Manifest(tmp_path).close()


def test_the_key_of_an_item_is_the_same_in_each_run_and_another_in_each_directory(tmp_path, manifest):
    key = manifest.key("one", 0)
    manifest.close()

    with Manifest(tmp_path) as later, Manifest(tmp_path / "elsewhere") as elsewhere:
        assert key == later.key("one", 0)
        assert key not in (later.key("one", 1), elsewhere.key("one", 0))
