"""Output files: stored when a generation ends, and served by this service until they expire or are evicted."""

import json
import os
import re
import subprocess
import sys
from io import BytesIO
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import requests
from PIL import Image
from werkzeug.test import EnvironBuilder

from harness.service_process import ROOT, free_port, running_service
from tests.support.callers import ADMIN, PICTURE, USER
from tests.support.ndjson import lines, stream
from tests.support.output_hosts import buckets
from tests.support.problem_documents import fields, problem


def generate(client, headers=ADMIN, **given):
    answer = client.post("/generate", json=PICTURE | given, headers=headers)
    assert 200 == answer.status_code, answer.json
    return answer.json


def path(link: str) -> str:
    parts = urlsplit(link)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def fetched(client, link, **headers):
    """The status, headers and body of an output file, read to its end."""
    with client.get(
        path(link), headers={name.replace("_", "-"): value for name, value in headers.items()}
    ) as answer:
        return answer.status_code, answer.headers, answer.data


def at_replicate(link: str) -> bytes:
    with urlopen(link) as answer:
        return answer.read()


@pytest.mark.parametrize(
    ("given", "ending", "kind"),
    [
        ({}, "jpg", "image/jpeg"),
        ({"output_format": "webp"}, "webp", "image/webp"),
        ({"output_format": "png"}, "png", "image/png"),
        ({"model_name": "veo-3-fast"}, "mp4", "video/mp4"),
    ],
)
def test_an_output_is_served_unchanged_with_its_media_type(client, simulator, given, ending, kind):
    generated = generate(client, **given)

    (link,) = generated["files"]
    assert f"http://localhost/files/{generated['id']}/{generated['id']}.{ending}" == link
    assert f"inline; filename={generated['id']}.{ending}" == fetched(client, link)[1]["Content-Disposition"]
    status, headers, body = fetched(client, link)
    assert (200, kind, "nosniff") == (status, headers["Content-Type"], headers["X-Content-Type-Options"])
    assert "public, max-age=31536000, immutable" == headers["Cache-Control"]
    assert str(len(body)) == headers["Content-Length"]
    assert at_replicate(generated["output"][0]) == body
    assert 0 == simulator.counts().deliveries_with_token


def test_files_have_the_order_of_their_outputs(client):
    generated = generate(client, num_outputs=3)

    assert [f"{generated['id']}{place}.jpg" for place in ("", "-2", "-3")] == [
        link.rsplit("/", 1)[1] for link in generated["files"]
    ]
    assert [at_replicate(url) for url in generated["output"]] == [
        fetched(client, link)[2] for link in generated["files"]
    ]


def test_links_of_the_old_form_still_work(client):
    generated = generate(client, num_outputs=3, file_name="fox")

    for number, link in enumerate(generated["files"]):
        old = link.replace(f"/{generated['id']}-{number + 1}.", f"/{number}.").replace(
            f"/{generated['id']}.", "/0."
        )
        assert old != link
        assert fetched(client, link)[2] == fetched(client, old)[2]
        for name in ("Content-Disposition", "ETag", "Content-Type", "Last-Modified", "Cache-Control"):
            assert fetched(client, link)[1][name] == fetched(client, old)[1][name]
        plain = fetched(client, old.partition("?")[0])[1]["Content-Disposition"]
        assert f"inline; filename={link.rsplit('/', 1)[1].partition('?')[0]}" == plain


def test_the_files_of_a_batch_have_distinct_names(client):
    body = {"model_name": "flux-dev", "prompts": ["a", "b"], "num_outputs": 2, "file_names": ["狐", "犬"]}
    results = client.post("/generate-batch", json=body, headers=ADMIN).json["results"]

    links = [link for each in results for link in each["files"]]
    said = [fetched(client, link)[1]["Content-Disposition"] for link in links]
    assert 4 == len({urlsplit(link).path.rsplit("/", 1)[1] for link in links})
    assert 4 == len({each.partition(";")[2].partition(";")[0] for each in said})


def test_a_file_remains_after_replicate_deletes_the_output(client, simulator):
    generated = generate(client)
    before = fetched(client, generated["files"][0])[2]

    simulator.reset()

    assert before == fetched(client, generated["files"][0])[2]
    with pytest.raises(Exception, match="404"):
        at_replicate(generated["output"][0])


def test_a_file_remains_after_a_restart(make_app):
    first = make_app()
    (link,) = generate(first.test_client())["files"]
    _, headers, body = fetched(first.test_client(), link)
    first.extensions["service"].close()

    _, later, same = fetched(make_app().test_client(), link)

    assert (body, headers["ETag"]) == (same, later["ETag"])


def test_a_valid_range_is_served_and_any_other_is_ignored(client):
    (link,) = generate(client)["files"]
    _, headers, whole = fetched(client, link)
    size, etag = len(whole), headers["ETag"]

    for given, expected in {
        "bytes=0-9": (0, 10), "bytes=10-": (10, size), "bytes=-5": (size - 5, size), f"bytes=3-{size + 9}": (3, size),
        f"bytes={size - 1}-": (size - 1, size), f"bytes=-{size * 2}": (0, size),
    }.items():  # fmt: skip
        status, headers, body = fetched(client, link, Range=given)
        start, stop = expected
        assert (206, whole[start:stop]) == (status, body), given
        assert f"bytes {start}-{stop - 1}/{size}" == headers["Content-Range"]
        assert str(stop - start) == headers["Content-Length"]

    for given in ("bytes=0-1,5-6", "lines=0-1", "bytes=", "bytes=9-3", "x"):
        assert (200, whole) == fetched(client, link, Range=given)[::2], given
    assert 206 == fetched(client, link, Range="bytes=0-1", If_Range=etag)[0]
    assert 200 == fetched(client, link, Range="bytes=0-1", If_Range='"other"')[0]


def test_a_range_beyond_the_end_is_refused_with_the_size(client):
    (link,) = generate(client)["files"]
    size = len(fetched(client, link)[2])

    answer = client.get(path(link), headers={"Range": f"bytes={size}-"})

    problem(answer, 416, "range_not_satisfiable")
    assert f"bytes */{size}" == answer.headers["Content-Range"]


def test_a_file_that_the_client_has_cached_is_answered_with_304(client):
    (link,) = generate(client)["files"]
    _, headers, _ = fetched(client, link)

    for given in (
        {"If_None_Match": headers["ETag"]},
        {"If_None_Match": "*"},
        {"If_Modified_Since": headers["Last-Modified"]},
    ):
        status, again, body = fetched(client, link, **given)
        assert (304, b"", headers["ETag"]) == (status, body, again["ETag"]), given
    assert (
        200 == fetched(client, link, If_None_Match='"other"', If_Modified_Since=headers["Last-Modified"])[0]
    )


def test_head_has_the_headers_of_get_without_the_body(client):
    (link,) = generate(client)["files"]
    _, headers, body = fetched(client, link)

    with client.head(path(link), headers={"Range": "bytes=0-1"}) as answer:
        assert (200, b"", str(len(body)), headers["ETag"]) == (
            answer.status_code,
            answer.data,
            answer.headers["Content-Length"],
            answer.headers["ETag"],
        )


NO_NAMES = [
        "{id}/1.jpg", "{id}/{id}-1.jpg", "{id}/{id}-2.jpg", "{id}/{id}-02.jpg", "{id}/{id}.png", "{id}/{id}",
        "{id}/0.png", "{id}/0", "{id}/00.jpg", "{id}/-1.jpg", "{id}/0.jpg.", "{id}/..",
        "{id}/%2e%2e%2f0.jpg",
        "{id}/0.jpg%00", "gen_%2e%2e/0.jpg", "../ledger.db-wal", "..%2fledger.db-wal", "../ledger.db",
        "..%2fledger.db", "%2fetc%2fpasswd/0.jpg",
        "gen_00000000000000000000000000000000/0.jpg", "GEN_0/0.jpg", "{upper}/0.jpg", "{id}", "{id}/", "",
        "{id}/0.jpg/0.jpg", "{id}/{id}-9999.jpg", "{id}/gen_00000000000000000000000000000000.jpg", "0/{id}.jpg",
    ]  # fmt: skip


def test_any_other_file_name_is_not_found(client):
    generated = generate(client)

    for name in NO_NAMES:
        answer = client.get("/files/" + name.format(id=generated["id"], upper=generated["id"].upper()))
        problem(answer, 404, "not_found")


def test_a_link_needs_no_key_and_accepts_only_get(client):
    (link,) = generate(client)["files"]

    assert 200 == fetched(client, link)[0]
    problem(client.delete(path(link), headers=ADMIN), 405, "method_not_allowed")


# ── The name of a download ──────────────────────────────────────────────────────────────────────────


DOWNLOADS = [
        ("fox", 'inline; filename=fox.jpg'),
        ("fox.jpg", 'inline; filename=fox.jpg'),
        ("fox.PNG", 'inline; filename=fox.jpg'),
        ("red fox v1.2", 'inline; filename="red fox v1.2.jpg"'),
        ("fuchs ü", "inline; filename={id}.jpg; filename*=UTF-8''fuchs%20%C3%BC.jpg"),
        ("狐", "inline; filename={id}.jpg; filename*=UTF-8''%E7%8B%90.jpg"),
        ("狐 b", "inline; filename={id}.jpg; filename*=UTF-8''%E7%8B%90%20b.jpg"),
        ("\uff23on", "inline; filename={id}.jpg; filename*=UTF-8''%EF%BC%A3on.jpg"),
        ("..\uff0fx\uff02y", "inline; filename={id}.jpg; filename*=UTF-8''..%EF%BC%8Fx%EF%BC%82y.jpg"),
        ("a;b=c'd%41", 'inline; filename="a;b=c\'d%41.jpg"'),
    ]  # fmt: skip


def test_a_download_has_the_requested_name_with_the_extension_of_its_media_type(client):
    for name, expected in DOWNLOADS:
        generated = generate(client, file_name=name)
        (link,) = generated["files"]
        assert expected.format(id=generated["id"]) == fetched(client, link)[1]["Content-Disposition"], name


def test_several_outputs_with_one_file_name_are_numbered(client):
    links = generate(client, file_name="fox.webp", num_outputs=3)["files"]

    assert [f"inline; filename={name}.jpg" for name in ("fox", "fox-2", "fox-3")] == [
        fetched(client, link)[1]["Content-Disposition"] for link in links
    ]


NO_FILE_NAMES = [
    "",
    " ",
    ".",
    "..",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "a\nb",
    "a\0",
    'a"b',
    "C:a",
    *(f"a{chr(mark)}gpj.exe" for mark in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))),
    "\u061ca",
    "a\u200e",
    "a\u200fb",
    "x" * 151,
    3,
    ["a"],
    True,
]


def test_an_invalid_file_name_is_refused(client):
    for name in NO_FILE_NAMES:
        assert ["file_name"] == fields(
            client.post("/generate", json=PICTURE | {"file_name": name}, headers=ADMIN)
        )


OTHER_NAMES = [
    "../../x", "a%0d%0aSet-Cookie:b", "a%22b", "x" * 300, "%00", "", "a%E2%80%AEgpj.exe", "nul", "COM1.x",
]  # fmt: skip


def test_an_invalid_name_in_a_link_is_ignored(client):
    generated = generate(client)
    (link,) = generated["files"]

    for wanted in OTHER_NAMES:
        status, headers, _ = fetched(client, f"{link}?name={wanted}")
        assert (200, f"inline; filename={generated['id']}.jpg") == (status, headers["Content-Disposition"]), (
            wanted
        )
        assert "Set-Cookie" not in headers


def test_a_batch_accepts_a_name_for_each_prompt(client):
    body = {"model_name": "flux-dev", "prompts": ["a", "b"], "file_names": ["first", "second.jpg"]}

    results = client.post("/generate-batch", json=body, headers=ADMIN).json["results"]

    assert ["inline; filename=first.jpg", "inline; filename=second.jpg"] == [
        fetched(client, each["files"][0])[1]["Content-Disposition"] for each in results
    ]


NO_NAMES_OF_A_BATCH = [
    (["a"], ["file_names"]),
    (["a", "b", "c"], ["file_names"]),
    (["a", "a"], ["file_names"]),
    (["a", "A"], ["file_names"]),
    (["a.jpg", "a.png"], ["file_names"]),
    (["a", "../b"], ["file_names[1]"]),
    (["a", "\u202eb"], ["file_names[1]"]),
    (["a", 3], ["file_names[1]"]),
    ("ab", ["file_names"]),
    (["a", None], ["file_names[1]"]),
    (["a", "LPT9"], ["file_names[1]"]),
    (["é", "e\u0301"], ["file_names"]),
]


def test_repeated_names_of_requests_are_numbered_in_the_response(client):
    names = ["fox", "Fox.png", "hare", None, "fox"]
    requests_ = [PICTURE if name is None else PICTURE | {"file_name": name} for name in names]

    results = client.post("/generate-batch", json={"requests": requests_}, headers=ADMIN).json["results"]

    assert ["fox", "Fox-2", "hare", None, "fox-3"] == [each.get("file_name") for each in results]
    saved = [fetched(client, each["files"][0])[1]["Content-Disposition"] for each in results]
    assert ["fox.jpg", "Fox-2.jpg", "hare.jpg", f"{results[3]['id']}.jpg", "fox-3.jpg"] == [
        each.removeprefix("inline; filename=") for each in saved
    ]
    for each in results:
        again = client.get(f"/generations/{each['id']}", headers=ADMIN).json
        assert (each.get("file_name"), each["files"]) == (again.get("file_name"), again["files"])


def test_a_batch_needs_a_distinct_valid_name_for_each_prompt(client, simulator):
    for names, wrong in NO_NAMES_OF_A_BATCH:
        body = {"model_name": "flux-dev", "prompts": ["a", "b"], "file_names": names}

        assert wrong == fields(client.post("/generate-batch", json=body, headers=ADMIN))
        assert {} == dict(simulator.counts().requests)


# ── Failures ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [{"reset": "before"}, {"truncate": True}, {"status": 503}, {"garbage": True}, {"reset": "after"}],
    ids=str,
)
def test_a_failed_download_is_retried(client, simulator, fault):
    simulator.inject(on="delivery", **fault)

    generated = generate(client)

    assert "files_error" not in generated
    assert at_replicate(generated["output"][0]) == fetched(client, generated["files"][0])[2]


@pytest.mark.slow
def test_a_failed_download_is_reported_in_a_successful_generation(client, simulator):
    simulator.inject(on="delivery", times=100, status=503)

    generated = generate(client)

    assert (True, [], 1, 0.025) == (
        generated["success"],
        generated["files"],
        len(generated["output"]),
        generated["cost_usd"],
    )
    assert "The output could not be kept: its host answered 503." == generated["files_error"]
    assert simulator.url not in generated["files_error"]


@pytest.mark.slow
def test_a_generation_with_a_missing_output_fails(client, simulator):
    simulator.inject(on="delivery", times=100, status=404)

    failed = problem(client.post("/generate", json=PICTURE, headers=ADMIN), 500, "generation_failed")

    assert ([], 0.0) == (failed["files"], failed["cost_usd"])
    assert failed["detail"] == (
        "The model reported success without an output. The output could not be kept: its host answered 404."
    )


@pytest.mark.parametrize(
    "where",
    ["http://127.0.0.1:1/x", "https://169.254.169.254/latest", "https://example.com/x", "file:///etc/passwd"],
)
def test_a_redirect_to_a_host_other_than_replicates_is_not_followed(client, simulator, where):
    simulator.inject(on="delivery", times=100, status=302, headers={"Location": where})

    generated = generate(client)

    assert (True, []) == (generated["success"], generated["files"])
    assert re.fullmatch(
        "The output could not be kept: its (host|URL) is not one that outputs (come from|have)[.]",
        generated["files_error"],
    )


def test_a_streamed_result_has_links_to_its_files(client):
    result, _ = lines(stream(client, ADMIN, "a"))

    assert 200 == fetched(client, result["files"][0])[0]


def test_the_oldest_files_are_evicted_first(make_app):
    client = make_app(FILES_MAX_BYTES=60_000).test_client()
    links = [generate(client, prompt=f"picture {n}", output_format="jpg")["files"] for n in range(12)]

    there = [bool(link) and fetched(client, link[0])[0] == 200 for link in links]
    assert there[-1]
    assert not there[0]
    assert sorted(there) == there


def test_with_a_files_ttl_of_0_nothing_is_downloaded(make_app, simulator):
    client = make_app(FILES_TTL=0).test_client()

    generated = generate(client)

    assert ([], False) == (generated["files"], "files_error" in generated)
    assert 0 == simulator.counts().requests.get("delivery", 0)


def test_links_begin_with_the_public_url(make_app):
    client = make_app(PUBLIC_URL="http://pictures.example.com/api/").test_client()

    generated = generate(client)

    assert [f"http://pictures.example.com/api/files/{generated['id']}/{generated['id']}.jpg"] == generated[
        "files"
    ]


HOSTS = [
    ("pictures.example.com:8080", "http://pictures.example.com:8080"),
    ("my_service:5000", "http://my_service:5000"),
    ("[::1]:5000", "http://[::1]:5000"),
    ("xn--", "http://xn--"),
    ("a b", "http://localhost:80"),
    ("evil.com/x?", "http://localhost:80"),
    ("\xe9", "http://localhost:80"),
    ("", "http://localhost:80"),
]


def test_any_host_header_yields_a_link_to_the_picture(app):
    for host, expected in HOSTS:
        # Called as a WSGI application, since the test client refuses some of these hosts.
        environ = EnvironBuilder("/generate", method="POST", json=PICTURE, headers=ADMIN).get_environ()
        generated = json.loads(
            b"".join(app.wsgi_app(environ | {"HTTP_HOST": host}, lambda status, headers: None))
        )

        assert [f"{expected}/files/{generated['id']}/{generated['id']}.jpg"] == generated["files"]


def test_a_placeholder_is_served_as_a_file(client):
    generated = generate(client, prompt="[[nsfw]]", placeholder=True)

    status, headers, body = fetched(client, generated["files"][0])
    assert (200, "image/png", (1600, 900)) == (
        status,
        headers["Content-Type"],
        Image.open(BytesIO(body)).size,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"FILES_URL": "s3://kept", "AWS_ACCESS_KEY_ID": "id"}, "FILES_URL: "),
        ({"FALLBACKS_FILE": "/nowhere.toml"}, "FALLBACKS_FILE: /nowhere.toml cannot be read"),
    ],
)
def test_an_invalid_setting_ends_the_start_with_one_line(tmp_path, settings, said):
    environ = {
        "PATH": os.environ["PATH"],
        "PORT": str(free_port()),
        "REPLICATE_API_TOKEN": "r8_x",
        **settings,
    }

    ended = subprocess.run(
        [sys.executable, ROOT / "app.py"],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (2, 1) == (ended.returncode, len(ended.stderr.splitlines())), ended.stderr
    assert ended.stderr.startswith(said)


@pytest.mark.slow
def test_outputs_in_an_s3_bucket_are_served_after_a_restart(simulator, tmp_path):
    with buckets() as store:
        settings = {
            "REPLICATE_BASE_URL": simulator.url, "DATA_DIR": tmp_path, "FILES_URL": f"s3://{store.make()}/kept",
            "AWS_ENDPOINT_URL": store.url, "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret",
        }  # fmt: skip
        with running_service(**settings) as service:
            generated = requests.post(
                f"{service.url}/generate", json=PICTURE, headers=USER, timeout=30
            ).json()
            (link,) = generated["files"]
            whole = requests.get(link, timeout=30)
        with running_service(**settings) as service:
            part = requests.get(service.url + path(link), headers={"Range": "bytes=5-9"}, timeout=30)

    assert at_replicate(generated["output"][0]) == whole.content
    assert ("image/jpeg", 206, whole.content[5:10]) == (
        whole.headers["Content-Type"],
        part.status_code,
        part.content,
    )
    assert whole.headers["ETag"] == part.headers["ETag"]
    assert [] == [each for each in (tmp_path / "files").rglob("*") if each.is_file()]


@pytest.mark.parametrize(
    ("content", "ending", "kind", "is_shown"),
    [
        (b"RIFF\0\0\0\0WAVE", "wav", "audio/wav", True),
        (b"\0\0\0\x1cftypavif" + bytes(20), "avif", "image/avif", True),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>",
            "svg",
            "image/svg+xml; charset=utf-8",
            False,
        ),
        (b"<!doctype html><script>alert(1)</script>", "html", "text/plain; charset=utf-8", False),
        (
            b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'/>",
            "xml",
            "text/plain; charset=utf-8",
            False,
        ),
        (b"a fox", "txt", "text/plain; charset=utf-8", False),
        (b'{"a": "<script>"}', "json", "application/json", False),
        (b"%PDF-1.7\n", "pdf", "application/pdf", False),
        (b"glTF\2\0\0\0", "glb", "model/gltf-binary", False),
        (b"\x7fELF" + bytes(9), "bin", "application/octet-stream", False),
    ],
)
def test_a_browser_shows_pictures_films_and_sound_and_saves_any_other_file(
    app, content, ending, kind, is_shown
):
    service, client = app.extensions["service"], app.test_client()
    generation = "gen_" + "0a" * 16
    name = service.loop.run(service.files.put(generation, 0, content))
    assert f"0.{ending}" == name

    with client.get(f"/files/{generation}/{generation}.{ending}?name=fox") as answer:
        headers = answer.headers
        assert (200, content, kind) == (answer.status_code, answer.data, headers["Content-Type"])
    shown = "inline" if is_shown else "attachment"
    assert f"{shown}; filename=fox.{ending}" == headers["Content-Disposition"]
    assert "nosniff" == headers["X-Content-Type-Options"]
    policy = None if is_shown else "default-src 'none'; sandbox"
    assert policy == headers.get("Content-Security-Policy")
