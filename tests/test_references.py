"""Reference images: what is taken, told by content, and what happens to it."""

import base64
from io import BytesIO

import pytest

from catalog.references import INLINE, LARGEST, Upload, reference

PNG = b"\x89PNG\r\n\x1a\n"
HEADS = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x10\0\0\0WEBPVP8 ",
}


def data(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def refused(given) -> bool:
    try:
        reference(given)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png", "HTTPS://EXAMPLE.com:8443/a?b=c#d", "https://8.8.8.8/x",
        "https://[2606:4700::1111]/x", "https://xn--fsq.com/x", "https://example.com./a",
        "https://example.com/".ljust(8192, "x"),
    ],
    ids=lambda url: url[:30],
)  # fmt: skip
def test_an_https_url_of_a_public_host_is_handed_on_as_it_is(url):
    assert url == reference(url)


@pytest.mark.parametrize(
    "given",
    [
        "", " ", "street.jpg", "/etc/passwd", "../x.png", "file:///etc/passwd", "ftp://example.com/b", "javascript:1",
        "http://example.com/a.png", "//example.com/b", "https://", "https:///x", "https://[::1", "https://a b.com/",
        "https://example.com/\n", "https://\xe9.com/", "https://user@/", "https://example.com:99999/",
        "https://example.com:0/", "https://example.com/".ljust(8193, "x"), None, 1, True, {}, ["https://example.com/"],
        "s3://bucket/a.png", "blob:https://example.com/1", "upload:a",
    ],
    ids=lambda given: str(given)[:30],
)  # fmt: skip
def test_a_path_another_scheme_or_what_is_no_url_is_refused(given):
    assert refused(given)


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1",
        "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "0",
        "224.0.0.1", "255.255.255.255", "intranet", "printer.local", "metadata.google.internal", "nas.home.arpa",
        "example.com@127.0.0.1", "user:secret@10.0.0.1", "127.0.0.%31", "999.1.1.1", "1.2.3.4.5",
    ],
)  # fmt: skip
def test_a_host_that_is_not_out_in_the_open_is_refused_however_it_is_written(host):
    assert refused(f"https://{host}/a.png")
    assert refused(f"https://{host}:8443")


@pytest.mark.parametrize(("kind", "head"), HEADS.items())
def test_an_image_inline_is_told_by_its_content_and_named_after_it(kind, head):
    assert data(head, kind) == reference(data(head, kind))
    assert data(head, kind) == reference(data(head, "text/plain"))
    assert data(head, kind) == reference(data(head, "image/x;charset=utf-8"))


@pytest.mark.parametrize(
    "given",
    [
        "data:,x", "data:image/png;base64,", "data:image/png;base64,A A=", "data:image/png;base64,AAAA\n",
        "data:image/png,AAAA", "data:image/png;base64,iVBORw0KGgo", data(b"<svg xmlns="), data(b"\0\0\0\x20ftypisom"),
        data(b"\0\0\0\x20ftypavif"), data(b"%PDF-1.7"), data(b"MZ\x90"), data(b"BM1234567890"), data(PNG[:-1]),
    ],
    ids=lambda given: given[:40],
)  # fmt: skip
def test_what_is_no_image_by_its_content_is_refused_whatever_it_calls_itself(given):
    assert refused(given)


def test_up_to_256_kb_is_sent_inline_and_a_byte_more_is_to_be_uploaded():
    most = PNG.ljust(INLINE, b"x")

    assert data(most) == reference(data(most))
    assert data(most) == reference(Upload(BytesIO(most)))
    for over in (data(most + b"x"), Upload(BytesIO(most + b"x"))):
        upload = reference(over)
        assert isinstance(upload, Upload)
        assert (INLINE + 1, "image/png", most + b"x") == (upload.size, upload.media.name, upload.head(10**6))


class Holey(BytesIO):
    """As many bytes as told, of which only the first are there."""

    def seek(self, offset, whence=0):
        return LARGEST + offset if whence == 2 else super().seek(offset, whence)


def test_up_to_100_mb_may_be_uploaded_and_a_byte_more_is_refused():
    class Larger(Holey):
        def seek(self, offset, whence=0):
            return super().seek(offset, whence) + (whence == 2)

    assert isinstance(reference(Upload(Holey(PNG))), Upload)
    assert refused(Upload(Larger(PNG)))


def test_an_endless_head_of_a_data_uri_is_not_gone_through_again_and_again():
    assert refused("data:" + ";" * 5_000_000)
    assert refused("data:" + ";base64" * 1_000_000 + ",AAAA")


def test_an_upload_that_is_no_image_is_refused():
    for content in (b"", b"x", b"<html>", b"\0\0\0\x20ftypisom", PNG[:7]):
        assert refused(Upload(BytesIO(content)))


def test_the_file_is_closed_when_nobody_needs_it_any_more():
    file = BytesIO(PNG)
    upload = Upload(file)

    assert not file.closed
    del upload
    assert file.closed
