"""Outputs that are text, sound, objects and any other JSON: read from Replicate, kept, and shown to callers."""

import base64
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from catalog.outputs import FILES, OutputForm, Url, output_form
from files import StoredOutputs
from generations import outputs as keeping
from providers import Prediction
from providers.memory import MemoryProvider
from providers.redaction import REDACTED, Redaction
from providers.replicate.answers import NOTHING_SECRET, read_page, read_prediction
from providers.replicate.outputs import with_addresses_checked
from simulator import Options
from tests.support import virtual_time
from tests.support.disconnect import QuickStore, a_service
from tests.support.virtual_replicate import replicate
from tests.support.wiring import a_picture, result, run

UPSTREAM = URL("http://127.0.0.1:8000/prefix")
A = "https://replicate.delivery/a.png"
B = "https://replicate.delivery/b.glb"
TOKEN = "r8_marked_token"
DROPPED = "An output was left out, since its address holds a credential."
WAV = "data:audio/wav;base64," + base64.b64encode(b"RIFF\0\0\0\0WAVE").decode()


def form(schema) -> OutputForm:
    return output_form({"components": {"schemas": {"Output": schema}}})


URI = {"type": "string", "format": "uri"}
ANY = form({})
IMAGES = form({"type": "array", "items": URI})
TEXT = form({"type": "string"})
WORDS = form(
    {
        "type": "array",
        "items": {"type": "string"},
        "x-cog-array-type": "iterator",
        "x-cog-array-display": "concatenate",
    }
)
FRAMES = form({"type": "array", "items": URI, "x-cog-array-type": "iterator"})


def checked(output, form=ANY, redact=NOTHING_SECRET, **fields) -> Prediction:
    """A prediction that succeeded with this output, as the provider returns it."""
    prediction = read_prediction({"id": "p", "status": "succeeded", "output": output, **fields}, redact)
    return with_addresses_checked(replace(prediction, form=form), upstream=UPSTREAM, redact=redact)


# Reading


@pytest.mark.parametrize(
    "output",
    [
        "a fox",
        0,
        False,
        1.5,
        {"a": {"b": [None, "c"]}},
        [[1, 2.5], [True]],
        [{"text": A}],
        "ftp://a",
        [],
        None,
    ],
)
def test_any_output_is_shown_as_it_came(output):
    assert output == checked(output).output


def test_only_addresses_of_replicate_and_of_the_simulator_are_files_where_no_schema_says_so():
    output = {
        "own": A, "host": "HTTPS://Sub.Replicate.Delivery/x.zip", "simulated": "http://127.0.0.1:8000/delivery/x.png",
        "data": WAV, "other": ["https://example.com/a.png", "http://example.com/a.png", "data:,", "data: none"],
        "like": ["https://replicate.delivery.example.com/a", "https://notreplicate.delivery/a", "replicate.delivery/a"],
    }  # fmt: skip

    assert (output["own"], output["host"], output["simulated"], WAV) == checked(output).produced.files
    assert (output,) == checked(output).produced.values


def test_where_a_schema_says_so_any_https_address_is_a_file_but_no_plain_http():
    output = [A, "https://example.com/a.png", "http://example.com/a.png", "data:text/plain,a", "data:,", "no"]
    produced = checked(output, IMAGES).produced

    assert (A, "https://example.com/a.png", "data:text/plain,a") == produced.files == produced.values
    assert "http://example.com/a.pngdata:,no" == produced.refusal


def test_text_stays_text_with_all_its_space():
    assert ("Look: https://replicate.delivery/a.png",) == checked(["Look:", f" {A}"], WORDS).produced.values
    assert (f"{A}\n",) == checked(f"{A}\n", TEXT).produced.values
    assert not checked(A, TEXT).produced.files


def test_text_where_a_file_should_be_is_the_error_of_any_model_and_other_text_is_not():
    refused = checked(["I cannot ", "draw that."], IMAGES)
    assert (False, "I cannot draw that.") == (refused.is_made, refused.error)
    assert "content" == checked("NSFW content detected.", form(URI)).cause

    for form_, output in [
        (ANY, "no"),
        (TEXT, "no"),
        (WORDS, ["n", "o"]),
        (IMAGES, {"error": "no"}),
        (ANY, 0),
    ]:
        made = checked(output, form_)
        assert (True, None) == (made.is_made, made.error)


def test_credentials_are_removed_from_every_text_of_an_output():
    output = {
        TOKEN: f"by {TOKEN}", "list": [1, f"https://replicate.delivery/{TOKEN}.png", A], "data": f"data:,{TOKEN}",
        "spread": ["for r8_mark", 7, "ed_token", A],
    }  # fmt: skip
    shown = checked(output, redact=Redaction(TOKEN)).output

    assert {
        REDACTED: f"by {REDACTED}", "list": [1, DROPPED, A], "data": DROPPED,
        "spread": [f"for {REDACTED}{A}", 7, "", ""],
    } == shown  # fmt: skip


def test_a_credential_spread_over_pieces_of_text_is_removed():
    made = checked(["for r8_", "marked", "_token."], WORDS, Redaction(TOKEN))

    assert (f"for {REDACTED}.",) == made.produced.values


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_does_not_have_are_null(number):
    assert [None, 1.0] == checked([number, 1.0]).output
    assert {"a": None} == checked({"a": number}).output


def test_nul_and_half_surrogates_are_replaced():
    assert [{"\ufffd": "a\ufffd"}] == checked([{"\0": "a\ud800"}]).output


def test_what_is_nested_too_deep_is_left_out():
    deep: object = A
    for _ in range(31):
        deep = [deep]
    assert (A,) == checked(deep).produced.files
    for _ in range(500):
        deep = {"a": deep}
    assert () == checked(deep).produced.files
    assert "This part of the output is nested too deep." in json.dumps(checked(deep).output)


TEXTS = st.sampled_from(
    [
        A,
        f"{A}?{TOKEN}",
        TOKEN,
        TOKEN[:7],
        TOKEN[7:],
        "%72" + TOKEN[1:],
        f"data:,{TOKEN}",
        f" https://{TOKEN}@a",
        "",
    ]
) | st.text(max_size=5)
JSON = st.recursive(
    TEXTS | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda some: st.lists(some, max_size=5) | st.dictionaries(TEXTS, some, max_size=3),
)


@given(JSON, st.sampled_from([ANY, IMAGES, TEXT, WORDS, FRAMES, FILES]))
def test_any_json_is_read_and_no_text_of_it_has_a_credential(output, form):
    redact = Redaction(TOKEN)
    prediction = checked(output, form, redact)

    assert not any(map(redact.is_in, prediction.produced.files))
    if form is not FILES:
        assert not redact.is_in("".join(each for each in prediction.produced.values if isinstance(each, str)))
    assert not redact.is_in(prediction.error or "")
    json.dumps(prediction.produced.values, allow_nan=False).encode()
    assert not redact.is_in(json.dumps(prediction.output, ensure_ascii=False))


# While it runs


def unfinished(form, output):
    return replace(read_prediction({"id": "p", "status": "processing", "output": output}), form=form)


def test_output_that_grows_does_not_end_a_prediction():
    assert [True, True, False, False, False] == [
        unfinished(each, ["a"]).is_over for each in (FILES, IMAGES, WORDS, FRAMES, ANY)
    ]
    assert [False] * 4 == [unfinished(each, None).is_over for each in (FILES, WORDS, FRAMES, ANY)]
    growing = unfinished(FRAMES, [A])
    assert (False, False, True) == (growing.has_succeeded, growing.is_made, growing.may_be_billed)


def test_a_page_that_shows_a_prediction_twice_shows_its_end():
    shown = [
        {"id": "p", "status": "processing", "output": ["a"]},
        {"id": "p", "status": "succeeded", "output": ["a"]},
    ]

    for items in (shown, shown[::-1]):
        assert "succeeded" == read_page({"results": items}).predictions["p"].status


# Through the service, in virtual time


class Store(QuickStore):
    """Keeps files under these names, and remembers what else it stores."""

    def __init__(self, *names: str | None, error: str | None = None, missing=(), is_full=False) -> None:
        self._kept = StoredOutputs(names, error, frozenset(missing))
        self._is_full = is_full
        self.asked: list[tuple[list[str], bool]] = []
        self.put_in: list[bytes] = []

    async def keep(self, generation_id, outputs, *, any_type=False):  # noqa: ARG002
        self.asked.append(([*outputs], any_type))
        return self._kept

    async def put(self, generation_id, number, content):  # noqa: ARG002
        if self._is_full:
            raise OSError("full")
        self.put_in.append(content)
        return f"{number}.{'json' if content[:1] in b'[{' else 'txt'}"


def outcome(form, output, store=None, **fields):
    """The body of a generation by a model of this form, whose prediction has this output."""
    request = a_picture(**fields)
    model = replace(request.model, name="someone/something", aliases=(), output=form)
    request = replace(request, first=replace(request.first, model=model))

    async def scenario():
        marked = checked(output, form).output
        provider = MemoryProvider(Prediction("", "succeeded", marked, started=True))
        _, inside = a_service(provider, outputs=store)
        generation = await run(inside, request)
        record = generation.record()
        return result(generation), record

    return virtual_time.run(scenario())


def links(body):
    return [each.rpartition("/")[2].removeprefix(body["id"]) for each in body["files"]]


@pytest.mark.parametrize(
    ("form", "output", "shown", "count"),
    [
        (TEXT, "a fox", ["a fox"], 1),
        (WORDS, ["A ", "fox."], ["A fox."], 1),
        (ANY, 0, [0], 1),
        (ANY, {"score": 0.5, "tags": ["a"]}, [{"score": 0.5, "tags": ["a"]}], 1),
        (ANY, [{"a": 1}, {}, "b"], [{"a": 1}, {}, "b"], 2),
        (form({"type": "array", "items": {"type": "number"}}), [0, 0.5], [0, 0.5], 2),
    ],
)
def test_an_output_without_files_is_in_the_answer_as_it_is(form, output, shown, count):
    store = Store()
    body, record = outcome(form, output, store)

    assert (True, shown, count, []) == (body["success"], body["output"], body["count"], body["files"])
    assert [] == store.asked
    assert (0, 0.0) == (record.images, record.video_seconds)


@pytest.mark.parametrize(
    ("form", "output", "names", "kind"),
    [
        (FILES, A, ["0.png"], "image"),
        (TEXT, "a fox", [], "text"),
        (WORDS, ["a", "fox"], [], "text"),
        (ANY, "a fox", [], "text"),
        (ANY, ["a", "fox"], [], "text"),
        (ANY, 0.5, [], "data"),
        (ANY, {"text": "a fox"}, [], "data"),
        (IMAGES, [A], ["0.webm"], "video"),
        (IMAGES, [A, A], ["0.glb", "1.png"], "3d"),
        (IMAGES, [A, A], ["0.zip", "1.mp3"], "audio"),
        (IMAGES, [A], ["0.srt"], "text"),
        (IMAGES, [A], ["0.safetensors"], "data"),
        (ANY, {"text": "a fox", "subtitles": A}, ["0.srt"], "data"),
        (ANY, {"text": "a fox", "speech": A}, ["0.wav"], "audio"),
        (ANY, {"mesh": B}, [None], "3d"),
        (ANY, {"sound": WAV}, [None], "audio"),
        (ANY, ["https://replicate.delivery/x"], [None], "data"),
    ],
)
def test_the_kind_is_that_of_the_files_by_their_content_or_of_what_else_was_made(form, output, names, kind):
    body, record = outcome(form, output, Store(*names))

    assert kind == body["kind"] == record.kind


def test_without_file_storage_the_kind_follows_from_the_addresses():
    assert ["3d", "image", "audio"] == [outcome(ANY, each)[0]["kind"] for each in (B, [A], WAV)]


def test_a_failure_has_the_kind_of_its_model_if_that_is_known():
    assert ["image", "text", None] == [outcome(form, None)[0].get("kind") for form in (FILES, WORDS, IMAGES)]


@pytest.mark.parametrize(
    ("form", "output", "usd"),
    [
        (ANY, {"views": [A, A + "?2"], "seed": 5}, 0.05),
        (ANY, [A, "text"], 0.025),
        (ANY, "text", 0.025),
        (ANY, None, 0.0),
        (IMAGES, "I cannot draw that.", 0.0),
        (FILES, {"views": [A], "seed": 5}, 0.025),
    ],
)
def test_a_price_per_image_is_due_for_each_file_or_else_for_each_output(form, output, usd):
    assert usd == outcome(form, output, num_outputs=2)[0]["cost_usd"]


def test_only_pictures_and_films_are_counted_as_such():
    store = Store("0.png", "1.glb", "2.wav", "3.png")
    assert (2, 0.0) == (
        outcome(ANY, [A, B, WAV, A], store)[1].images,
        outcome(ANY, [A], store)[1].video_seconds,
    )


def test_an_object_keeps_its_shape_with_its_files_beside():
    store = Store("0.glb", "1.png")
    body, record = outcome(ANY, {"mesh": B, "view": A, "seed": 5}, store)

    assert ([{"mesh": B, "view": A, "seed": 5}], 1) == (body["output"], body["count"])
    assert ([".glb", "-2.png"], [([B, A], True)]) == (links(body), store.asked)
    assert 1 == record.images


def test_declared_models_still_make_pictures_and_films_alone():
    store = Store("0.png")
    body, record = outcome(FILES, {"view": A, "seed": 5}, store)

    assert ([A], [([A], False)], 1) == (body["output"], store.asked, record.images)


def test_a_file_that_does_not_exist_is_no_output_but_its_object_is():
    body, _ = outcome(ANY, [A, {"mesh": B}], Store(None, None, error="Gone.", missing=[0, 1]))
    assert ([{"mesh": B}], 1, "Gone.") == (body["output"], body["count"], body["files_error"])

    body, _ = outcome(IMAGES, [A], Store(None, error="Gone.", missing=[0]))
    assert "The model reported success without an output. Gone." == body["error"]["detail"]


@pytest.mark.parametrize("output", [None, "", [], {}, [None]])
@pytest.mark.parametrize("form", [ANY, TEXT, WORDS, IMAGES])
def test_no_output_is_a_failure_of_any_model(form, output):
    body, _ = outcome(form, output)

    assert ("generation_failed", "The model reported success without an output.") == (
        body["error"]["code"],
        body["error"]["detail"],
    )


LARGE = {"vectors": [[0.5] * 1000] * 200}


@pytest.mark.parametrize(
    ("form", "output", "content", "link"),
    [
        (ANY, LARGE, json.dumps(LARGE), ".json"),
        (ANY, [LARGE, LARGE], json.dumps([LARGE, LARGE]), ".json"),
        (WORDS, ["fox "] * 300_000, "fox " * 300_000, ".txt"),
    ],
)
def test_an_output_that_is_too_large_for_an_answer_is_a_file(form, output, content, link):
    store = Store()
    body, record = outcome(form, output, store)

    assert ([content.encode()], [link], (), 1) == (store.put_in, links(body), record.outputs, body["count"])
    assert body["files"] == body["output"]


def test_a_large_output_has_its_files_before_it_and_its_own_link_as_output():
    body, _ = outcome(ANY, {"image": A, **LARGE}, Store("0.png"))

    assert ([".png", "-2.json"], body["files"][1:], 1) == (links(body), body["output"], body["count"])


@pytest.mark.parametrize("store", [None, Store(is_full=True)], ids=["not kept", "full"])
def test_a_large_output_that_cannot_be_kept_is_in_the_answer(store):
    body, _ = outcome(ANY, LARGE, store)

    assert ([LARGE], []) == (body["output"], body["files"])
    assert keeping.MAX_INLINE < len(json.dumps(LARGE))


def test_a_large_data_uri_is_an_output_as_any_address():
    image = "data:image/png;base64," + "A" * 2_000_000
    body, _ = outcome(IMAGES, [image], Store("0.png"))

    assert ([image], [".png"]) == (body["output"], links(body))


@pytest.mark.parametrize(("form", "state"), [(IMAGES, "succeeded"), (FRAMES, "failed")])
def test_a_prediction_left_at_processing_with_output_is_over_unless_its_output_grows(form, state):
    request = a_picture("[[early]] a fox", timeout=60)
    model = replace(request.model, output=form)
    request = replace(request, first=replace(request.first, model=model))

    async def scenario():
        async with replicate(Options(jitter=0)) as (service, _):
            generation = await run(service.core, request)
            return generation.state, generation.error and generation.error.code

    assert (state, None if state == "succeeded" else "generation_timeout") == virtual_time.run(scenario())


def test_the_output_is_marked_only_where_it_may_be_fetched():
    made = checked([A, "https://example.com/a.png", "no"], ANY)

    assert [(True, True), (True, False), (False, None)] == [
        (isinstance(each, Url), getattr(each, "is_own", None)) for each in made.output
    ]
