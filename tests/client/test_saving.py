"""Files of outputs: which address they come from, what is checked, and what a name may not overwrite."""

import os

import httpx
import pytest
from replicate_concurrent import BadOutput, ConnectionLost, GenerationFailed, OutputLost, results
from replicate_concurrent.operations import saving

from tests.support.scripted_service import ScriptedService, answer

JPEG = b"\xff\xd8\xff and more"
PNG = b"\x89PNG\r\n\x1a\n and more"
KEPT = "http://service.test/files/gen_1/gen_1.jpg"
LINK = "https://replicate.delivery/0.jpg"


def picture(content=JPEG, kind="image/jpeg", **headers):
    return httpx.Response(200, content=content, headers={"content-type": kind, **headers})


def generation(**fields):
    usual = {
        "id": "gen_1", "success": True, "status": "succeeded", "model_name": "black-forest-labs/flux-dev",
        "prompt": "A red fox!", "kind": "image", "files": [KEPT], "output": [LINK],
    }  # fmt: skip
    return results.generation(usual | fields)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def save(request, tmp_path):
    def saved(*answers, made=None, name="{id}.{ext}", overwrite=False, timeout=600.0):
        service = ScriptedService(answers, on_asyncio=request.param, timeout=timeout)
        saved.service = service
        operation = saving.save(service.service, made or generation(), tmp_path, name, overwrite=overwrite)
        return [path.relative_to(tmp_path).as_posix() for path in service.run(operation)]

    return saved


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_output_becomes_a_file_of_its_name(save, tmp_path):
    assert ["flux-dev/0001-a-red-fox.jpg"] == save(picture(), name="{model}/{index:04d}-{slug}.{ext}")
    assert {"0001-a-red-fox.jpg": JPEG} == contents(tmp_path)


def test_no_address_of_an_output_gets_a_key(save):
    save(httpx.Response(404), picture())

    assert [KEPT, LINK] == [str(each.url) for each in save.service.requests]
    assert [] == [each for each in save.service.requests if "authorization" in each.headers]


def test_an_output_that_the_service_keeps_no_longer_comes_from_replicate(save):
    assert ["gen_1.jpg"] == save(httpx.Response(410), picture())


def test_an_output_that_no_place_keeps_is_lost(save, tmp_path):
    with pytest.raises(OutputLost, match=r"replicate\.delivery"):
        save(httpx.Response(404), httpx.Response(404))

    assert {} == contents(tmp_path)


def test_the_other_outputs_are_saved_and_all_lost_ones_named(save, tmp_path):
    kept = [KEPT, KEPT.replace(".jpg", "-2.jpg"), KEPT.replace(".jpg", "-3.jpg")]
    gone = httpx.Response(404)
    with pytest.raises(OutputLost) as caught:
        save(gone, picture(), gone, made=generation(files=kept, output=[]), name="fox.{ext}")

    assert {"fox-2.jpg": JPEG} == contents(tmp_path)
    assert (tmp_path / "fox-2.jpg",) == caught.value.saved
    assert [f"No place keeps this output any more: {kept[at]}" for at in (0, 2)] == [*caught.value.lost]


def test_an_output_that_could_not_be_kept_comes_from_replicate(save):
    made = generation(files=[], files_error="The volume is full.")

    assert ["gen_1.jpg"] == save(picture(), made=made)


def test_one_output_that_could_not_be_kept_comes_from_replicate_in_its_place(save):
    third = "http://service.test/files/gen_1/gen_1-3.jpg"
    made = generation(
        files=[KEPT, third], output=[LINK, f"{LINK}?2", f"{LINK}?3"], files_error="2: the disk is full"
    )

    assert ["fox.jpg", "fox-2.jpg", "fox-3.jpg"] == save(picture(), made=made, name="fox.{ext}")
    assert [KEPT, f"{LINK}?2", third] == [str(each.url) for each in save.service.requests]


def test_several_outputs_are_numbered_in_order(save, tmp_path):
    made = generation(files=[KEPT, KEPT.replace(".jpg", "-2.jpg")], output=[LINK, f"{LINK}?2"])

    assert ["fox.jpg", "fox-2.jpg"] == save(picture(), picture(JPEG + b"2"), made=made, name="fox.{ext}")
    assert {"fox.jpg": JPEG, "fox-2.jpg": JPEG + b"2"} == contents(tmp_path)


def test_a_name_that_is_taken_is_refused_before_the_output_is_fetched(save, tmp_path):
    (tmp_path / "fox.jpg").write_text("mine")

    with pytest.raises(FileExistsError):
        save(picture(), name="fox.{ext}")

    assert [] == save.service.requests
    assert {"fox.jpg": b"mine"} == contents(tmp_path)


def test_of_several_outputs_none_has_its_name_if_one_is_taken_meanwhile(save, tmp_path):
    def taken_meanwhile(_):
        (tmp_path / "fox-2.png").write_text("mine")
        return picture(PNG, "image/png")

    made = generation(files=[KEPT, f"{KEPT}?2"], output=[])
    with pytest.raises(FileExistsError):
        save(picture(), taken_meanwhile, made=made, name="fox.{ext}")

    assert {"fox-2.png": b"mine"} == contents(tmp_path)


def test_a_name_is_overwritten_when_that_is_wanted(save, tmp_path):
    (tmp_path / "fox.jpg").write_text("old")

    save(picture(), name="fox.jpg", overwrite=True)

    assert {"fox.jpg": JPEG} == contents(tmp_path)


def test_the_extension_is_that_of_the_content(save):
    assert ["gen_1.png"] == save(picture(PNG))


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"", "image/jpeg"), (b"<!DOCTYPE html><p>Login", "text/html"), (b'{"error": 1}', "application/json")],
)
def test_what_is_no_picture_is_no_file(save, tmp_path, content, kind):
    with pytest.raises(BadOutput):
        save(picture(content, kind))

    assert {} == contents(tmp_path)


def linked(name):
    return generation(files=[], output=[f"https://replicate.delivery/{name}"])


@pytest.mark.parametrize("name", ["a.mp4", "a.avif", "a.mov", "a.webm", "a.wav", "a.mp3", "a.ogg", "a.flac"])
@pytest.mark.parametrize("content", [b'{"error": "gone"}', b"<Error><Code>NoSuchKey", "Zu spät".encode()])
def test_a_text_is_no_audio_video_or_picture(save, tmp_path, name, content):
    with pytest.raises(BadOutput):
        save(picture(content, "application/octet-stream"), made=linked(name))

    assert {} == contents(tmp_path)


@pytest.mark.parametrize(
    ("content", "name", "extension"),
    [
        (b"\0\0\0\x20ftypisom", "a.mp4", "mp4"),
        (b"\0\0\0\x20ftypisom", "a", "mp4"),
        (b"\0\0\0\x14ftypqt  ", "a", "mov"),
        (b"\0\0\0\x14ftypqt  ", "a.mp4", "mp4"),
        (b"\0\0\0\x1cftypavif", "a", "avif"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm", "a", "webm"),
        (b"\x1a\x45\xdf\xa3\xa3B\x86\x81\x01B\x82\x88matroska", "a", "mkv"),
        (b"RIFF\x24\x08\0\0WAVEfmt ", "a.mp3", "wav"),
        (b"ID3\x04\0\0", "a", "mp3"),
        (b"ID3\x04\0\0", "a.flac", "flac"),
        (b"\xff\xfb\x90\x64", "a", "mp3"),
        (b"OggS\0\x02", "a.opus", "opus"),
        (b"OggS\0\x02", "a", "ogg"),
        (b"\xff\xfb\x90\x64", "a.gguf", "gguf"),
        (b"\0\0\x01\xba", "a.mp4", "mp4"),
        (b'{"mesh": []}', "a.gltf", "gltf"),
    ],
)
def test_media_are_known_by_their_first_bytes_and_other_files_keep_their_extension(
    save, content, name, extension
):
    assert [f"gen_1.{extension}"] == save(picture(content, "application/octet-stream"), made=linked(name))


def test_an_output_that_comes_short_is_fetched_again(save, tmp_path):
    def short(_):
        return httpx.Response(200, headers={"content-length": "99"}, stream=httpx.ByteStream(JPEG))

    assert ["gen_1.jpg"] == save(short, picture())
    with pytest.raises(BadOutput, match="of 99 bytes"):
        save(*[short] * 5, name="other.jpg")
    assert {"gen_1.jpg": JPEG} == contents(tmp_path)


def test_lost_connections_are_tried_again_and_leave_nothing(save, tmp_path):
    assert ["gen_1.jpg"] == save(httpx.ReadError("lost"), httpx.Response(503), picture())
    with pytest.raises(ConnectionLost):
        save(httpx.ReadError("lost"), name="other.jpg")
    assert {"gen_1.jpg": JPEG} == contents(tmp_path)


def test_a_file_has_the_rights_that_the_user_gives_new_files(save, tmp_path):
    before = os.umask(0o027)
    try:
        save(picture())
    finally:
        os.umask(before)

    assert 0o640 == (tmp_path / "gen_1.jpg").stat().st_mode & 0o777


def test_an_inline_output_is_decoded(save, tmp_path):
    made = generation(files=[], output=["data:image/jpeg;base64,/9j/IGFuZCBtb3Jl"])

    assert ["gen_1.jpg"] == save(answer(500), made=made)
    assert {"gen_1.jpg": JPEG} == contents(tmp_path)


def test_texts_and_data_are_files_too(save, tmp_path):
    text = generation(id="gen_2", kind="text", files=[], output=["Once upon https://a.test"])
    data = generation(id="gen_3", kind="data", files=[], output=[{"boxes": [1]}])

    assert ["gen_2.txt"] == save(answer(500), made=text)
    assert ["gen_3.json"] == save(answer(500), made=data)
    assert b"Once upon https://a.test" == contents(tmp_path)["gen_2.txt"]


def test_a_generation_that_failed_raises_its_error(save):
    made = generation(success=False, status="failed", error={"code": "generation_failed", "detail": "CUDA"})

    with pytest.raises(GenerationFailed, match="CUDA"):
        save(answer(500), made=made)


@pytest.mark.parametrize("name", ["../fox.jpg", "/etc/fox.jpg", "a\\b.jpg", "C:fox.jpg", "{nothing}.jpg", ""])
def test_a_name_that_leaves_the_directory_is_refused(save, name):
    with pytest.raises(ValueError):  # noqa: PT011 - test_filenames.py has the sentences
        save(picture(), name=name)
    assert [] == save.service.requests
