"""Forms of outputs: compiled from published schemas of every kind, and what they read in the JSON that comes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.outputs import FILES, OutputForm, Url, is_empty, output_form
from catalog.published import Published

URI = {"type": "string", "format": "uri"}
TEXT = {"type": "string"}
NUMBERS = {"type": "array", "items": {"type": "number"}}
STREAM = {"x-cog-array-type": "iterator"}
PIECES = STREAM | {"x-cog-array-display": "concatenate"}

A = Url("https://replicate.delivery/a.png", is_own=True)
B = Url("https://replicate.delivery/b.glb", is_own=True)
FOREIGN = Url("https://example.com/c.png")
DATA = Url("data:audio/wav;base64,UklGRg==", is_own=True)


def a_list(items, **more):
    return {"type": "array", "items": items, **more}


def an_object(**properties):
    return {"type": "object", "properties": properties}


def form(output, **schemas) -> OutputForm:
    """The form of a document with this `Output`."""
    return output_form({"components": {"schemas": {"Output": output, **schemas}}})


def read(output, came, **schemas):
    """The outputs and the files that are found in what came."""
    produced = form(output, **schemas).read(came)
    return list(produced.values), list(produced.files)


@pytest.mark.parametrize(
    ("schema", "came", "outputs", "files"),
    [
        (URI, A, [A], [A]),
        (URI, FOREIGN, [FOREIGN], [FOREIGN]),
        (URI | {"title": "Output"}, DATA, [DATA], [DATA]),
        ({"format": "uri"}, A, [A], [A]),
        (a_list(URI), [A, B], [A, B], [A, B]),
        (a_list(URI), [A, A], [A, A], [A, A]),
        (a_list(URI, **STREAM), [A], [A], [A]),
        (a_list(URI), [None, A, ""], [A], [A]),
        (a_list(a_list(URI)), [[A], [B]], [[A], [B]], [A, B]),
        (TEXT, "a fox", ["a fox"], []),
        (TEXT, A, [A], []),
        (a_list(TEXT), ["a", "", "b"], ["a", "", "b"], []),
        (a_list(TEXT, **STREAM), ["a", "b"], ["a", "b"], []),
        (a_list(TEXT, **PIECES), ["A ", None, "fox", "."], ["A fox."], []),
        (a_list(TEXT, **PIECES), ["see ", A], [f"see {A}"], []),
        (a_list(TEXT, **PIECES), "whole", ["whole"], []),
        ({"type": "number"}, 0, [0], []),
        ({"type": "boolean"}, False, [False], []),
        (NUMBERS, [0.5, 0], [0.5, 0], []),
        (a_list(NUMBERS), [[1, 2], [3]], [[1, 2], [3]], []),
        (an_object(image=URI, seed={"type": "integer"}), {"image": A, "seed": 5}, [{"image": A, "seed": 5}], [A]),
        (an_object(text=TEXT, page=TEXT), {"text": A, "page": "b"}, [{"text": A, "page": "b"}], []),
        (an_object(all=a_list(URI)), {"all": [A, B]}, [{"all": [A, B]}], [A, B]),
        (an_object(image=URI), {"image": A, "more": [B, FOREIGN]}, [{"image": A, "more": [B, FOREIGN]}], [A, B]),
        (a_list(an_object(file=URI, text=TEXT)), [{"file": A, "text": "x"}], [{"file": A, "text": "x"}], [A]),
        ({"type": "object", "additionalProperties": URI}, {"x": FOREIGN}, [{"x": FOREIGN}], [FOREIGN]),
        ({"title": "Output"}, {"x": [A, "b"], "y": FOREIGN}, [{"x": [A, "b"], "y": FOREIGN}], [A]),
        ({}, A, [A], [A]),
        ({}, FOREIGN, [FOREIGN], []),
        ({}, [A, "b", 3], [A, "b", 3], [A]),
        ({"type": "object"}, {"a": {"b": DATA}}, [{"a": {"b": DATA}}], [DATA]),
        ({"anyOf": [a_list(TEXT), URI]}, FOREIGN, [FOREIGN], [FOREIGN]),
        ({"anyOf": [a_list(TEXT), URI]}, ["a", A], ["a", A], []),
        ({"anyOf": [URI, {"type": "null"}]}, A, [A], [A]),
        ({"anyOf": [TEXT, NUMBERS]}, [1.5], [1.5], []),
        ({"oneOf": [URI, TEXT]}, "b", ["b"], []),
        ({"type": ["string", "null"], "format": "uri"}, A, [A], [A]),
        ({"allOf": [an_object(a=URI), an_object(b=TEXT)]}, {"a": A, "b": B}, [{"a": A, "b": B}], [A]),
    ],
)  # fmt: skip
def test_a_published_schema_says_what_is_a_file_and_all_else_is_an_output_as_it_is(
    schema, came, outputs, files
):
    assert (outputs, files) == read(schema, came)


@pytest.mark.parametrize(
    ("schema", "came", "outputs", "files"),
    [
        (a_list(URI), A, [A], [A]),
        (URI, [A, B], [A, B], [A, B]),
        (URI, {"image": A, "other": FOREIGN}, [{"image": A, "other": FOREIGN}], [A]),
        (a_list(URI), [{"image": A}], [{"image": A}], [A]),
        (TEXT, {"file": A}, [{"file": A}], [A]),
        (a_list(TEXT, **PIECES), ["a", {"file": A}], ["a", {"file": A}], [A]),
        (an_object(text=TEXT), [A], [A], [A]),
        (an_object(score={"type": "number"}), {"score": A}, [{"score": A}], [A]),
        (NUMBERS, "no", ["no"], []),
        (URI, 17, [17], []),
    ],
)
def test_where_something_else_came_only_addresses_of_the_provider_are_files(schema, came, outputs, files):
    assert (outputs, files) == read(schema, came)


@pytest.mark.parametrize("came", ["I cannot draw that.", ["I cannot ", "draw that."]])
@pytest.mark.parametrize("schema", [URI, a_list(URI)])
def test_text_where_a_file_should_be_is_no_output_but_a_refusal(schema, came):
    produced = form(schema).read(came)

    assert ((), "I cannot draw that.") == (produced.values, produced.refusal)


def test_text_beside_a_file_is_left_out_of_a_list_and_stays_in_an_object():
    assert ([A], [A]) == read(a_list(URI), ["Here: ", A])
    assert ([{"image": "none"}], []) == read(an_object(image=URI), {"image": "none"})


@pytest.mark.parametrize("came", [None, "", [], {}, [None, ""], [[], {}], ["", ""]])
@pytest.mark.parametrize("schema", [URI, TEXT, {}, a_list(TEXT, **PIECES), a_list(URI), an_object(a=TEXT)])
def test_only_null_and_what_is_empty_is_no_output(schema, came):
    assert is_empty(came)
    assert () == form(schema).read(came).items


@pytest.mark.parametrize("came", [0, False, " ", {"a": None}, [0], [None, False]])
def test_zero_and_false_are_outputs(came):
    assert not is_empty(came)
    assert form({}).read(came).items


def test_a_published_document_has_the_form_of_its_output_also_without_inputs():
    schemas = {"Output": a_list(URI, **STREAM)}
    document = {"components": {"schemas": schemas}}

    assert form(schemas["Output"]) == Published.of(document).output
    assert OutputForm(streams=True) == Published.of({}).output == Published.of("it is too large.").output


def test_references_are_resolved_wherever_they_stand():
    parts = {
        "Part": an_object(file={"$ref": "#/components/schemas/File"}, label=TEXT),
        "File": URI,
        "Many": a_list({"allOf": [{"$ref": "#/components/schemas/Part"}]}),
        "With/slash": URI,
    }
    came = [{"file": FOREIGN, "label": A}]

    assert (came, [FOREIGN]) == read({"$ref": "#/components/schemas/Many"}, came, **parts)
    assert (came, [FOREIGN]) == read(
        {"title": "Output", "allOf": [{"$ref": "#/components/schemas/Many"}]}, came, **parts
    )
    assert ([FOREIGN], [FOREIGN]) == read({"$ref": "#/components/schemas/With~1slash"}, FOREIGN, **parts)


def test_only_an_iterator_streams_and_only_a_concatenated_one_joins():
    several = [
        a_list(URI),
        a_list(URI, **STREAM),
        a_list(TEXT, **PIECES),
        {"$ref": "#/components/schemas/Words"},
    ]
    forms = [form(each, Words=a_list(TEXT, **PIECES)) for each in several]

    assert [False, True, True, True] == [each.streams for each in forms]
    assert [False, False, True, True] == [each.joins for each in forms]
    assert not FILES.streams


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        (TEXT, "text"), (a_list(TEXT), "text"), (a_list(TEXT, **PIECES), "text"), ({"type": "number"}, "data"),
        (NUMBERS, "data"), (an_object(text=TEXT, score={"type": "number"}), "data"), (URI, None), (a_list(URI), None),
        ({}, None), ({"type": "object"}, None), (an_object(text=TEXT, audio=URI), None), (a_list(a_list(URI)), None),
    ],
)  # fmt: skip
def test_the_kind_is_known_from_the_schema_unless_there_may_be_files(schema, kind):
    assert kind == form(schema).kind


@pytest.mark.parametrize(
    "document",
    [
        {}, {"components": None}, {"components": {"schemas": []}}, {"components": {"schemas": {"Output": 7}}},
        {"components": {"schemas": {"Output": {"$ref": "#/components/schemas/Output"}}}},
        {"components": {"schemas": {"Output": {"$ref": "elsewhere.json"}}}},
        {"components": {"schemas": {"Output": {"allOf": 3, "anyOf": "x", "properties": [1], "type": {"a": 1}}}}},
        {"components": {"schemas": {"Output": {"type": ["null"]}}}},
    ],
)  # fmt: skip
def test_a_document_that_says_nothing_readable_says_nothing(document):
    produced = output_form(document).read([A, FOREIGN, {"a": 1}])

    assert ((A, FOREIGN, {"a": 1}), (A,)) == (produced.values, produced.files)


def test_schemas_that_contain_each_other_many_times_are_read():
    names = [f"S{number}" for number in range(30)]
    every = {each: {"$ref": f"#/components/schemas/{each}"} for each in names}
    schemas = {each: {"type": "object", "properties": every, "allOf": list(every.values())} for each in names}
    produced = form({"$ref": "#/components/schemas/S0"}, **schemas).read({"S1": {"S2": A}})

    assert (({"S1": {"S2": A}},), (A,)) == (produced.values, produced.files)


def test_files_that_do_not_exist_are_no_outputs_but_objects_that_name_them_are():
    produced = form({}).read([A, {"mesh": B, "views": [DATA]}, "text", A])

    assert (A, B, DATA, A) == produced.files
    kept = produced.without({0, 1, 2})
    assert ({"mesh": B, "views": [DATA]}, "text", A) == kept.values


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([A, B, FOREIGN, DATA, "https://replicate.delivery/unmarked.png"])
)  # fmt: skip
JSON = st.recursive(
    LEAVES,
    lambda some: st.lists(some, max_size=4) | st.dictionaries(st.sampled_from("abc"), some, max_size=3),
)
SCHEMAS = st.recursive(
    st.sampled_from(
        [URI, TEXT, {}, {"type": "number"}, {"type": "null"}, {"$ref": "#/components/schemas/Output"}]
    ),
    lambda some: (
        st.builds(a_list, some)
        | st.builds(lambda each: a_list(each, **PIECES), some)
        | st.builds(lambda a, b: an_object(a=a, b=b), some, some)
        | st.builds(lambda a, b: {"anyOf": [a, b]}, some, some)
        | st.builds(lambda a: {"allOf": [a], "title": "T"}, some)
    ),
    max_leaves=8,
)


def leaves(value):
    if isinstance(value, list | tuple | dict):
        return [
            found for each in (value.values() if isinstance(value, dict) else value) for found in leaves(each)
        ]
    return [value]


@given(SCHEMAS, JSON)
def test_any_json_is_read_by_any_form_and_only_marked_addresses_are_files(schema, came):
    for each in (form(schema), FILES):
        produced = each.read(came)

        assert all(isinstance(file, Url) for file in produced.files)
        assert {*produced.files} <= {each for each in leaves(came) if isinstance(each, str)}
        assert bool(produced.items or produced.refusal) <= (not is_empty(came))
        if not each.joins and not each.is_media:
            json.dumps(produced.values)
