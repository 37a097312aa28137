"""The requirements of a zip of images: the content and the names of its files."""

import tracemalloc
import zlib
from dataclasses import replace

import pytest

from datasets import examine as rules
from datasets.examine import Dataset, examine
from datasets.refusals import LARGEST, SHOWN, DatasetRefused, DatasetTooLarge
from tests.support.zips import Member, image, images, zip_of
from tests.unit.test_pictures import chunk, png

PICTURE = Member("a.jpg", image())


def test_a_zip_is_described(look):
    captions = [Member(f"me/{number}.txt", b"a photo of TOK") for number in range(5)]
    pictures = [replace(each, name=f"me/{each.name}") for each in images(5)]
    small = Member("me/4.jpg", image("PNG", (800, 600)))
    content = zip_of(Member("me/", mode=0o040755), *pictures[:4], small, *captions)

    expected = Dataset(
        images=5,
        captions=5,
        size=len(content),
        unpacked=4 * len(image()) + len(small.data) + 5 * 14,
        folder="me",
        smallest=(640, 512),
        warnings=(),
    )
    assert expected == look(content)


@pytest.mark.parametrize("method", [0, 8])
@pytest.mark.parametrize(
    ("format", "name"),
    [("JPEG", "a.jpg"), ("JPEG", "a.JPEG"), ("PNG", "a.png"), ("WEBP", "a.webp"), ("PNG", "a.jpg")],
)
def test_images_that_trainers_read_pass(look, format, name, method):  # noqa: A002 - Pillow's name for it
    found = look(zip_of(Member(name, image(format, (700, 900)), method=method)))

    assert (1, None, (700, 900)) == (found.images, found.folder, found.smallest)


def test_leftovers_of_macos_and_windows_are_ignored(look):
    junk = ["__MACOSX/._0.jpg", "__MACOSX/a/b/c", ".DS_Store", "me/.DS_Store", "me/Thumbs.db", "desktop.ini"]
    pictures = [replace(each, name=f"me/{each.name}") for each in images(5)]

    assert ("me", 5) == (
        (found := look(zip_of(*(Member(name, b"\0\1\2") for name in junk), *pictures))).folder,
        found.images,
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../a.jpg", "has a path that may lead out of its folder"),
        ("me/../../a.jpg", "has a path that may lead out of its folder"),
        ("./a.jpg", "has a path that may lead out of its folder"),
        ("me//a.jpg", "has a path that may lead out of its folder"),
        ("..", "has a path that may lead out of its folder"),
        ("", "has no name"),
        ("/etc/a.jpg", "has an absolute path"),
        ("C:/a.jpg", "has an absolute path"),
        ("c:a.jpg", "has an absolute path"),
        ("..\\a.jpg", "has a backslash in its name"),
        ("me\\a.jpg", "has a backslash in its name"),
        ("x" * 252 + ".jpg", "has a name of more than 255 bytes"),
        ("ö" * 126 + ".jpg", "has a name of more than 255 bytes"),
        ("__MACOSX/../../a", "has a path that may lead out of its folder"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(refusal, name, message):
    shown = name if len(name) <= 255 else f"{name[:255]}..."

    assert (shown, message) in refusal(*images(), Member(name, image()))


def test_a_name_in_utf_8_without_its_flag_is_measured_as_trainers_unpack_it(look, refusal):
    name = "ö" * 100 + ".jpg"
    assert 1 == look(zip_of(Member(name, image(), flags=0x800))).images
    assert [(name, "has a name of more than 255 bytes")] == refusal(Member(name, image()))


@pytest.mark.parametrize("letter", ["\0", "\n", "\x1b", "\x7f", "\x85", "\u2028"])
def test_an_unprintable_character_is_refused_and_not_repeated(refusal, letter):
    assert [("a?.jpg", "has an unprintable character in its name")] == refusal(
        Member(f"a{letter}.jpg", image())
    )


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (0o120777, "is a symbolic link"),
        (0o010644, "is not a plain file"),
        (0o020644, "is not a plain file"),
        (0o060644, "is not a plain file"),
        (0o140644, "is not a plain file"),
        (0o040755, "is not a plain file"),
    ],
)
def test_links_and_devices_are_refused(refusal, mode, message):
    assert [("a.jpg", message)] == refusal(replace(PICTURE, mode=mode))


def test_a_file_without_a_mode_passes(look):
    assert 1 == look(zip_of(replace(PICTURE, mode=0))).images


@pytest.mark.parametrize("flags", [1, 0x41, 0x2000])
def test_encrypted_files_are_refused(refusal, flags):
    assert [("a.jpg", "is encrypted")] == refusal(replace(PICTURE, flags=flags))


@pytest.mark.parametrize(
    "change", [*({"method": each} for each in (1, 6, 9, 12, 14, 93, 99)), {"version": 64}, {"flags": 0x20}]
)
def test_other_compression_is_refused(refusal, change):
    message = "is compressed in a way that trainers may not read; use Deflate, or none"

    assert [("a.jpg", message)] == refusal(replace(PICTURE, **change))


@pytest.mark.parametrize("other", ["a.jpg", "a.jpg/"])
def test_a_name_may_stand_once(refusal, other):
    assert (other, "is in it twice") in refusal(PICTURE, Member(other, b""))


def test_a_folder_with_content_is_refused(refusal):
    assert ("me/", "is a folder with content of its own") in refusal(*images(), Member("me/", b"hidden"))


def test_a_bomb_that_declares_little_is_stopped_at_once(look, refusal):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(1024)) + packer.flush()
    bomb = Member("a.jpg", b"", 8, packed=packed, unpacked=1000)
    tracemalloc.start()
    try:
        assert ("a.jpg", "is longer than its header says") in refusal(*images(), bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 10 * 2**20 > peak

    honest = replace(bomb, unpacked=2**30)
    assert [
        ("a.jpg", "expands to more than 100 times its size"),
        (None, "unpacks to more than 512 MiB"),
    ] == refusal(honest)


def test_the_sum_of_all_files_is_bounded(refusal):
    half = Member("", b"", 8, packed=b"\0" * 3 * 2**20, unpacked=257 * 2**20)

    assert [(None, "unpacks to more than 512 MiB")] == refusal(
        replace(half, name="a.jpg"), replace(half, name="b.jpg")
    )


def test_a_zip_of_many_tiny_parts_is_stopped(refusal, monkeypatch):
    parts = Member("a.png", png(600, 600, *[chunk(b"IDAT")] * 3000, chunk(b"IEND")))
    monkeypatch.setattr(rules, "MOST_READS", 1000)

    assert [("a.png", "has too many parts")] == refusal(parts)


def test_more_than_10_000_files_are_refused(refusal):
    assert [(None, "has more than 10,000 files")] == refusal(*[Member("x")] * 10_001)


def test_a_larger_zip_is_not_even_read(tmp_path):
    path = tmp_path / "images.zip"
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)

    with pytest.raises(DatasetTooLarge, match="at most 100 MiB"):
        examine(path)

    with path.open("wb") as file:
        file.truncate(LARGEST)
    with pytest.raises(DatasetRefused):
        examine(path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jpg", b"", "is empty"),
        ("a.txt", b"", "is empty"),
        ("a.jpg", image()[:-2], "must be a whole JPEG image: its end is missing (EOI)"),
        ("a.jpg", image()[:20], "must be a whole JPEG image: its end is missing (EOI)"),
        ("a.png", image("PNG")[:33], "must be a whole PNG image: its end is missing (IEND)"),
        ("a.webp", image("WEBP")[:-9], "must be a whole WEBP image: its end is missing"),
        ("a.png", png(0, 5, chunk(b"IDAT"), chunk(b"IEND")), "must be at least 1x1 pixels, not 0x5"),
        (
            "a.png",
            png(16_000, 16_000, chunk(b"IDAT"), chunk(b"IEND")),
            "must have at most 178956970 pixels, not 16000x16000",
        ),
        (
            "a.heic",
            b"\0\0\0\x18ftypheic" + bytes(50),
            "is an image in HEIC, which trainers do not read; convert it to JPEG",
        ),
        (
            "a.jpg",
            b"\0\0\0\x18ftypmif1" + bytes(50),
            "is an image in HEIC, which trainers do not read; convert it to JPEG",
        ),
        (
            "a.avif",
            b"\0\0\0\x18ftypavif" + bytes(50),
            "is an image in AVIF, which trainers do not read; convert it to JPEG",
        ),
        (
            "a.gif",
            b"GIF89a" + bytes(50),
            "is an image in GIF, which trainers do not read; convert it to JPEG",
        ),
        (
            "a.tif",
            b"II*\0" + bytes(50),
            "is an image in TIFF, which trainers do not read; convert it to JPEG",
        ),
        (
            "a.bmp",
            b"BM" + bytes(50),
            "is an image in BMP, which trainers do not read; convert it to JPEG",
        ),
        (
            "a.mp4",
            b"\0\0\0\x18ftypisom" + bytes(50),
            "is neither an image (.jpg, .png, .webp) nor a caption (.txt)",
        ),
        ("a.pdf", b"%PDF-1.7", "is neither an image (.jpg, .png, .webp) nor a caption (.txt)"),
        ("a.zip", zip_of(PICTURE), "is neither an image (.jpg, .png, .webp) nor a caption (.txt)"),
        (
            "a.tar",
            bytes(257) + b"ustar" + bytes(99),
            "is neither an image (.jpg, .png, .webp) nor a caption (.txt)",
        ),
        ("metadata.jsonl", b"{}", "is neither an image (.jpg, .png, .webp) nor a caption (.txt)"),
        ("a.TXT", b"words", "is neither an image (.jpg, .png, .webp) nor a caption (.txt)"),
        ("a.png", b"<svg/>", "is not a JPEG, PNG or WebP image, in spite of its name"),
        ("a.JPG", b"\xff\xd8", "is not a JPEG, PNG or WebP image, in spite of its name"),
        ("a", image(), "is a JPEG image, so its name must end in .jpg"),
        ("a.txt", image("PNG"), "is a PNG image, so its name must end in .png"),
        ("._a.jpg", b"\0\5\x16\7" + bytes(50), "is not an image but a leftover of macOS; leave it out"),
        ("a.txt", b"\xff\xfea\0", "is not text in UTF-8"),
        ("a.txt", b"a\0b", "is not text in UTF-8"),
        ("a.txt", b" \r\n\t", "is an empty caption"),
        ("a.txt", "\ufeff \n".encode(), "is an empty caption"),
        ("a.txt", b"x" * 8193, "is longer than 8192 bytes"),
        ("a.txt", b"\xff" * 8193, "is longer than 8192 bytes"),
    ],
)
@pytest.mark.parametrize("method", [0, 8])
def test_a_file_that_a_trainer_cannot_use_is_refused(refusal, name, data, message, method):
    assert [(name, message)] == refusal(*images(), Member(name, data, method))


def test_all_captions_together_are_bounded(refusal, look, monkeypatch):
    members = PICTURE, Member("a.txt", b"a dog"), Member("b.txt", b"a cat")
    monkeypatch.setattr(rules, "MOST_CAPTIONS", 10)
    assert 1 == look(zip_of(*members)).captions
    monkeypatch.setattr(rules, "MOST_CAPTIONS", 9)
    assert "captions of more than 9 bytes" in str(refusal(*members))


def test_captions_pass_in_utf_8_with_or_without_its_mark(look):
    captions = [Member("0.txt", "\ufeffschön".encode()), Member("1.txt", "ö".encode() * 4096)]

    assert 2 == look(zip_of(*images(), *captions)).captions


@pytest.mark.parametrize("names", [["a/b/0.jpg"], ["a/b/c/0.jpg"]])
def test_a_folder_in_a_folder_is_refused(refusal, names):
    folder = names[0].removesuffix("0.jpg")
    message = "is a folder in a folder: images must be at the top, or all in one folder"

    assert [(folder, message)] == refusal(*(Member(name, image()) for name in names))


def test_several_folders_are_refused(refusal):
    def named(*names):
        return [Member(name, image()) for name in names]

    assert [("b/", "must be where the other files are: the others are in a/")] == refusal(
        *named("a/0.jpg", "a/1.jpg", "b/2.jpg")
    )
    assert [("b/", "must be where the other files are: the others are at the top")] == refusal(
        *named("0.jpg", "b/2.jpg")
    )
    assert [("2.jpg", "must be where the other files are: the others are in a/")] == refusal(
        *named("a/0.jpg", "a/1.jpg", "2.jpg")
    )


def test_a_zip_without_images_is_refused(refusal):
    no_image = [(None, "has no image: it needs JPEG, PNG or WebP files")]

    assert no_image == refusal()
    assert no_image == refusal(Member("a.txt", b"words"), Member("me/"), Member(".DS_Store", b"x"))


def test_all_problems_are_listed_at_once_and_more_than_twenty_counted(refusal, look):
    wrong = [
        Member("../a.jpg", image()),
        Member("b.gif", b"GIF89a"),
        Member("c.jpg", image(), crc=1),
        replace(PICTURE, flags=1),
    ]
    assert {"../a.jpg", "a.jpg", "b.gif", "c.jpg"} == {name for name, _ in refusal(*wrong)}

    with pytest.raises(DatasetRefused, match=r"and 12 more$") as refused:
        look(zip_of(*(Member(f"{number}.gif", b"GIF89a") for number in range(32))))
    assert (SHOWN, 32) == (len(refused.value.problems), refused.value.count)


def test_doubts_are_warnings(look):
    members = [
        *images(3),
        Member("small.png", image("PNG", (300, 700))),
        Member("0.txt", b"a photo"),
        Member("dog.txt", b"a dog"),
        Member("SMALL.txt", b"case counts"),
    ]

    assert (
        "Trainers recommend ten to twenty images; this has 4.",
        "Images without a caption: 3 of 4, such as 1.jpg.",
        "Captions without an image, which are ignored: 2, such as SMALL.txt.",
        "Images with a side below 512 pixels: 1 of 4; the smallest has 300x700.",
    ) == look(zip_of(*members)).warnings
    assert (300, 700) == look(zip_of(*members)).smallest
