"""Reference images: which are accepted, by their content and in any notation, and which bytes are sent."""

import base64
import textwrap
from io import BytesIO
from urllib.parse import quote

import pytest

from catalog.references import INLINE, LARGEST, Upload, reference
from tests.support.callers import ADMIN, PNG
from tests.support.problem_documents import fields
from tests.unit.test_pictures import WHOLE, drawn

JPEG, GIF, WEBP = drawn("JPEG", (300, 200)), drawn("GIF", mode="P"), drawn("WEBP")
KINDS = {"image/png": PNG, "image/jpeg": JPEG, "image/gif": GIF, "image/webp": WEBP}


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def data(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{encoded(content)}"


def refused(given) -> str | None:
    """The reason for which a reference is refused; None if it is accepted."""
    try:
        reference(given)
    except ValueError as wrong:
        return str(wrong)
    return None


# ── URLs


VALID = [
    "https://example.com/a.png", "HTTPS://EXAMPLE.com:8443/a?b=c#d", "https://8.8.8.8/x",
    "https://[2606:4700::1111]/x", "https://xn--fsq.com/x", "https://example.com./a",
    "https://example.com/%7Ea/%c3%a9%20b?sig=a%2Fb%2B%3D&c=d+e",
    "https://example.com/?a=/?:@&b#/?c", "https://u:p%40@example.com/a", "https://example.com/-._~", "https://example.com?",
    "https://example.com/a;b,c!$&'()*+=:@", "https://example.com/".ljust(8192, "x"),
]  # fmt: skip


@pytest.mark.parametrize("url", VALID, ids=lambda url: url[:30])
def test_a_valid_https_url_of_a_public_host_is_passed_on_byte_for_byte(url):
    assert url == reference(url)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (" https://example.com/a.png", "https://example.com/a.png"),
        ("\n\t https://example.com/a.png \r\n", "https://example.com/a.png"),
        ("https://example.com/a.png\u00a0", "https://example.com/a.png"),
        ("https://example.com/my photo.png", "https://example.com/my%20photo.png"),
        ("https://example.com/my%20photo (1).png", "https://example.com/my%20photo%20(1).png"),
        ("https://example.com/a?q=red fox#one two", "https://example.com/a?q=red%20fox#one%20two"),
        ("https://example.com/é.png", "https://example.com/%C3%A9.png"),
        ("https://example.com/狐/ü%20b.png?ä=ö&s=a%2Fb", "https://example.com/%E7%8B%90/%C3%BC%20b.png?%C3%A4=%C3%B6&s=a%2Fb"),
        ("https://example.com/👩\u200d🚀.png", "https://example.com/%F0%9F%91%A9%E2%80%8D%F0%9F%9A%80.png"),
        ("https://example.com/e\u0301.png", "https://example.com/e%CC%81.png"),
        ("https://example.com/a|b^c`{d}<e>\"f\"", "https://example.com/a%7Cb%5Ec%60%7Bd%7D%3Ce%3E%22f%22"),
        ("https://example.com/100%/x", "https://example.com/100%25/x"),
        ("https://example.com/%zz%2f?a=%", "https://example.com/%25zz%2f?a=%25"),
        ("https://example.com/%4", "https://example.com/%254"),
        ("https://example.com/[1]?a[]=b#c[0]#d", "https://example.com/%5B1%5D?a%5B%5D=b#c%5B0%5D%23d"),
        ("https://u|ser@example.com/a", "https://u%7Cser@example.com/a"),
        ("https://[2606:4700::1111]:443/{x}", "https://[2606:4700::1111]:443/%7Bx%7D"),
        ("https://münchen.de/a.png", "https://xn--mnchen-3ya.de/a.png"),
        ("https://MÜNCHEN.de:8443/ä", "https://xn--mnchen-3ya.de:8443/%C3%A4"),
        ("https://例え.jp?a=b", "https://xn--r8jz45g.jp?a=b"),
        ("https://bücher.example.com", "https://xn--bcher-kva.example.com"),
        ("https://пример.рф/картинка.png", "https://xn--e1afmkfd.xn--p1ai/%D0%BA%D0%B0%D1%80%D1%82%D0%B8%D0%BD%D0%BA%D0%B0.png"),
    ],
)  # fmt: skip
def test_a_url_in_any_common_notation_is_encoded(given, sent):
    assert sent == reference(given)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("https://example.com/a\nb.png", "U+000A"),
        ("https://example.com/a\tb.png", "U+0009"),
        ("https://example.com/a\0.png", "U+0000"),
        ("https://example.com/a\x7f.png", "U+007F"),
        ("https://example.com/a\u200bb.png", "U+200B (ZERO WIDTH SPACE)"),
        ("https://example.com/\u202egnp.a", "U+202E (RIGHT-TO-LEFT OVERRIDE)"),
        ("https://example.com/a\ufeff.png", "U+FEFF"),
        ("https://example.com/a\u2028b", "U+2028"),
        ("https://example.com/\ud800", "U+D800"),
        ("https://example.com\\a.png", "U+005C (REVERSE SOLIDUS)"),
        ("https://example.com/a\\b.png", "U+005C (REVERSE SOLIDUS)"),
        ("https://exa mple.com/a.png", "U+0020 (a space) in its host"),
        ("https://exa\u00a0mple.com/a.png", "U+00A0 (NO-BREAK SPACE) in its host"),
    ],
    ids=ascii,
)
def test_a_url_that_cannot_be_encoded_is_refused_with_the_character_named(given, named):
    assert f"must not contain {named}" in refused(given)


@pytest.mark.parametrize(
    "given",
    [
        "", " ", "street.jpg", "/etc/passwd", "../x.png", "file:///etc/passwd", "ftp://example.com/b", "javascript:1",
        "http://example.com/a.png", "//example.com/b", "https://", "https:///x", "https://[::1", "https://a b.com/",
        "https://user@/", "https://example.com:99999/", "my photo.png", "фото.png", "https:// /x", "https://ü/x",
        "https://example.com:0/", "https://example.com/".ljust(8193, "x"), None, 1, True, {}, ["https://example.com/"],
        "https://example.com/" + "ü" * 4000, "https://" + "ü" * 10_000_000, "https://ü..com/",
        "s3://bucket/a.png", "blob:https://example.com/1", "upload:a", "https://[ü]/a",
    ],
    ids=lambda given: str(given)[:30],
)  # fmt: skip
def test_a_path_or_another_scheme_or_an_invalid_url_is_refused(given):
    assert refused(given)


def wide(text: str) -> str:
    """The same text in full-width characters, which host names are mapped from."""
    return "".join(chr(ord(character) + 0xFEE0) for character in text)


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1",
        "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[fe80::1]", "[fd00::1]", "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "0",
        "224.0.0.1", "255.255.255.255", "intranet", "printer.local", "metadata.google.internal", "nas.home.arpa",
        "example.com@127.0.0.1", "user:secret@10.0.0.1", "127.0.0.%31", "999.1.1.1", "1.2.3.4.5",
        *map(wide, ("localhost", "127.0.0.1", "metadata.google.internal", "10.1")), "①②⑦.0.0.1", "127。0。0。1",
    ],
)  # fmt: skip
def test_a_host_that_is_not_public_is_refused_in_every_notation(host):
    assert refused(f"https://{host}/a.png")
    assert refused(f"https://{host}:8443")
    assert refused(f" https://{host}/ü b.png ")


# ── data: URIs


@pytest.mark.parametrize(("kind", "content"), KINDS.items())
def test_the_type_of_an_inline_image_follows_from_its_content(kind, content):
    assert data(content, kind) == reference(data(content, kind))
    assert data(content, kind) == reference(data(content, "text/plain"))
    assert data(content, kind) == reference(data(content, "image/x;charset=utf-8"))


def wrapped(text: str, width: int, end: str) -> str:
    return end.join(textwrap.wrap(text, width))


WRITTEN = {
    "as it is": lambda text: text,
    "wrapped as in mail": lambda text: wrapped(text, 76, "\r\n"),
    "wrapped as in PEM": lambda text: wrapped(text, 64, "\n"),
    "wrapped unevenly": lambda text: wrapped(text, 75, "\n"),
    "wrapped and indented": lambda text: "\n    " + wrapped(text, 76, "\n    "),
    "folded, lines joined by spaces": lambda text: wrapped(text, 76, " "),
    "a blank after the comma": lambda text: f" {text}",
    "a newline at the end": lambda text: f"{text}\n",
    "space all around": lambda text: f"\r\n\t {text}\t\r\n ",
    "with = encoded": lambda text: text.replace("=", "%3D"),
    "with = encoded, small": lambda text: text.replace("=", "%3d"),
    "percent-encoded": lambda text: quote(text, safe=""),
    "wrapped and percent-encoded": lambda text: quote(wrapped(text, 76, "\r\n"), safe=""),
    "url-safe": lambda text: text.replace("+", "-").replace("/", "_"),
    "unpadded": lambda text: text.rstrip("="),
    "url-safe and unpadded": lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
    "padded too much": lambda text: text.rstrip("=") + "===",
    "all at once": lambda text: (
        f" {quote(wrapped(text.replace('/', '_').rstrip('='), 70, chr(10)), safe='')}\n"
    ),
}


@pytest.mark.parametrize("way", WRITTEN)
@pytest.mark.parametrize(("kind", "content"), KINDS.items())
def test_base64_is_read_in_every_common_notation(kind, content, way):
    for rest in (b"", b"x", b"xy"):  # one of each padding
        text = WRITTEN[way](encoded(content + rest))
        assert data(content + rest, kind) == reference(f"data:{kind};base64,{text}")


@pytest.mark.parametrize(
    "head",
    [
        "data:image/png;base64,", "data:;base64,", "DATA:image/PNG;BASE64,", "data:image/jpg;charset=utf-8;base64,",
        " \n data:image/png;base64,", "data:image/png; base64, ", "data:image/png;base64 ,", "data:;a=b c;base64,",
    ],
)  # fmt: skip
def test_the_head_of_a_data_uri_is_read_in_every_common_notation(head):
    assert data(PNG) == reference(head + encoded(PNG))


@pytest.mark.parametrize(
    "given",
    [
        "data:,x", "data:image/png;base64,", "data:image/png;base64,A A=", "data:image/png;base64,AAAA\n",
        "data:image/png,AAAA", "data:image/png;base64,iVBORw0KGgo", data(b"<svg xmlns="), data(b"\0\0\0\x20ftypisom"),
        data(b"\0\0\0\x20ftypavif"), data(b"%PDF-1.7"), data(b"MZ\x90"), data(b"BM1234567890"), data(PNG[:-1]),
        f"data:image/png;base64,{encoded(PNG)[:-9]}", f"data:image/png;base64,{encoded(PNG)}!", data(PNG[:30]),
        f"data:image/png;base64,{encoded(PNG)[:40]}={encoded(PNG)[40:]}", f"data:image/png;base64,%{encoded(PNG)}",
        f"data:image/png;base64,{encoded(PNG)[:41]}", f"data:image/png;base64;{encoded(PNG)}", f"data:{encoded(PNG)}",
        f"data:image/png;base64,ü{encoded(PNG)}", data(WHOLE["jpeg"][:-2]), data(WHOLE["webp, lossy"][:-1]),
    ],
    ids=lambda given: given[:40],
)  # fmt: skip
def test_content_other_than_a_complete_image_is_refused_under_every_media_type(given):
    assert refused(given)


def test_base64_whose_plus_signs_became_spaces_is_refused_and_not_repaired():
    text = encoded(JPEG)

    assert 9 < text.count("+")
    assert "a space in it may have been a +" in refused("data:image/jpeg;base64," + text.replace("+", " "))


@pytest.mark.parametrize(("kind", "content"), KINDS.items())
def test_base64_without_its_data_prefix_gets_a_hint(kind, content):
    for text in (
        encoded(content),
        f" {encoded(content)}\n",
        *(
            wrapped(encoded(content), width, end)
            for width in (1, 8, 20, 64, 76)
            for end in ("\n", "\r\n", "\n  ")
        ),
    ):
        assert refused(text).endswith(f"; it reads like base64, so put data:{kind};base64, before it")


@pytest.mark.parametrize("text", [encoded(bytes(range(256))), "A" * 5000, wrapped("A" * 500, 10, "\r\n")])
def test_base64_of_unknown_content_without_its_prefix_gets_the_same_hint(text):
    assert "put data:image/…;base64, before it" in refused(text)


FILM = encoded(b"\0\0\0\x20ftypisom" * 20)


@pytest.mark.parametrize(
    "given", ["street.jpg", "a" * 30, "/var/lib/" + "a" * 40, "x" * 99, "a red fox in the snow " * 9, FILM]
)
def test_text_that_is_no_base64_gets_no_hint(given):
    assert "base64" not in refused(given)


def test_an_image_in_any_common_notation_reaches_replicate_in_its_proper_form(client, simulator):
    body = {"model_name": "kontext-max", "prompt": "make it blue"}
    written = {
        f" data:image/png;base64, {wrapped(encoded(PNG), 20, chr(10))} ": data(PNG),
        f"data:;base64,{quote(encoded(PNG), safe='')}": data(PNG),
        "data:;base64," + encoded(WEBP).replace("+", "-").replace("/", "_").rstrip("="): data(
            WEBP, "image/webp"
        ),
        " https://example.com/my photo ü.png\n": "https://example.com/my%20photo%20%C3%BC.png",
        "https://example.com/%7Ea?b=%2F": "https://example.com/%7Ea?b=%2F",
    }
    for given, expected in written.items():
        answer = client.post("/generate", json=body | {"input_image": given}, headers=ADMIN)
        assert 200 == answer.status_code, answer.json
        assert expected == simulator.predictions()[-1].input["input_image"]
    spent = len(simulator.predictions())
    for given in (
        data(PNG[:-1]),
        encoded(PNG),
        "https://example.com/a\tb.png",
        data(JPEG[:-2], "image/jpeg"),
    ):
        answer = client.post("/generate", json=body | {"input_image": given}, headers=ADMIN)
        assert ["input_image"] == fields(answer)
    assert spent == len(simulator.predictions())


# ── Sizes


def test_an_image_of_256_kb_is_sent_inline_and_one_byte_more_requires_an_upload():
    most = PNG.ljust(INLINE, b"x")

    assert data(most) == reference(data(most))
    assert data(most) == reference(Upload(BytesIO(most)))
    for over in (data(most + b"x"), wrapped(data(most + b"x"), 76, "\n"), Upload(BytesIO(most + b"x"))):
        upload = reference(over)
        assert isinstance(upload, Upload)
        assert (INLINE + 1, "image/png", most + b"x") == (upload.size, upload.media.name, upload.head(10**6))


class Holey(BytesIO):
    """A file that claims a size but has only the first bytes."""

    def seek(self, offset, whence=0):
        return LARGEST + offset if whence == 2 else super().seek(offset, whence)


def test_an_upload_of_100_mb_is_accepted_and_one_byte_more_is_refused():
    class Larger(Holey):
        def seek(self, offset, whence=0):
            return super().seek(offset, whence) + (whence == 2)

    assert isinstance(reference(Upload(Holey(PNG))), Upload)
    assert refused(Upload(Larger(PNG)))


def test_an_endless_head_of_a_data_uri_is_not_scanned_repeatedly():
    assert refused("data:" + ";" * 5_000_000)
    assert refused("data:" + ";base64" * 1_000_000 + ",AAAA")
    assert refused("data:;base64" + " " * 5_000_000)
    assert refused("data:;base64," + "A " * 2_000_000)
    assert refused("data:;base64," + "%" * 5_000_000)


def test_an_upload_other_than_a_complete_image_is_refused():
    for content in (
        b"",
        b"x",
        b"<html>",
        b"\0\0\0\x20ftypisom",
        PNG[:7],
        *(each[:-1] for each in KINDS.values()),
    ):
        assert refused(Upload(BytesIO(content)))


def test_an_image_accepted_before_is_not_refused_for_its_structure():
    cut = PNG[:20]

    assert data(cut) == reference(data(cut), accepted=True) == reference(Upload(BytesIO(cut)), accepted=True)
    with pytest.raises(ValueError, match="PNG, JPEG"):
        reference(data(b"<svg/>"), accepted=True)


def test_the_file_is_closed_with_its_last_reference():
    file = BytesIO(PNG)
    upload = Upload(file)

    assert not file.closed
    del upload
    assert file.closed
