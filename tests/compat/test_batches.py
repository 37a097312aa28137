"""Batches: results in the order of the requests, and each file under the name asked for."""

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from replicate_batch_process import BatchRequest, IntelligentBatchProcessor, config, intelligent_batch_process
from replicate_concurrent import Unauthenticated

from harness.service_process import until
from tests.support.pictures import format_of, is_the_black_picture

FLUX, KONTEXT, QWEN = "black-forest-labs/flux-dev", "black-forest-labs/flux-kontext-max", "qwen/qwen-image"


def process(requests, **options):
    return asyncio.run(IntelligentBatchProcessor().process_intelligent_batch(requests, **options))


def test_prompts_become_the_files_asked_for_in_their_order(capfd):
    names = ["output/sun.png", "output/city.png", "output/wood.png"]
    files = asyncio.run(
        intelligent_batch_process(
            prompts=["[[slow=0.6]] sun", "city", "wood"],
            model_name=QWEN,
            max_concurrent=8,
            output_filepath=names,
        )
    )

    assert names == files
    assert ["PNG"] * 3 == [format_of(name) for name in names]
    assert ("", "") == capfd.readouterr()


def test_without_names_files_are_numbered_in_the_directory():
    files = asyncio.run(
        intelligent_batch_process(["a", "b"], FLUX, output_dir="out/here", aspect_ratio="16:9")
    )

    assert [True, True] == [Path(file).parent == Path("out/here") for file in files]
    assert 1 == len({file[:-8] for file in files})
    assert ["_000.jpg", "_001.jpg"] == [file[-8:] for file in files]


def test_one_name_for_several_prompts_is_numbered():
    assert ["a_1.png", "a_2.png"] == asyncio.run(
        intelligent_batch_process(["a", "b"], QWEN, output_filepath="a.png")
    )


def test_a_path_may_be_a_path_and_stand_among_the_parameters():
    requests = [
        BatchRequest("a", QWEN, Path("a.png")),
        BatchRequest("b", QWEN, None, {"output_filepath": "b.png"}),
    ]

    assert [["a.png"], ["b.png"]] == [each.file_paths for each in process(requests)]


def test_models_and_parameters_may_be_mixed(photo):
    results = process(
        [
            BatchRequest("A city", QWEN, "output/city.png", {"aspect_ratio": "16:9"}),
            BatchRequest("A wood", "google/imagen-4-ultra", "output/wood.png", {"output_quality": 90}),
            BatchRequest("Red hair", KONTEXT, "output/hair.png", kwargs={"input_image": photo}),
        ],
        max_concurrent=5,
    )

    assert [True] * 3 == [each.success for each in results]
    assert [["output/city.png"], ["output/wood.png"], ["output/hair.png"]] == [
        each.file_paths for each in results
    ]
    assert all(each.duration > 0 for each in results)


def test_each_failure_has_its_own_reason_and_costs_the_others_nothing(made):
    Path("taken.png").write_bytes(b"mine")
    progress = []
    requests = [
        BatchRequest("A bay", "acme/nothing", request_id="unknown"),
        BatchRequest("A bay", FLUX, "bay.png", {"num_outputs": 9}, "too many"),
        BatchRequest("A bay", FLUX, "hill.png", request_id="good"),
        BatchRequest("A bay", FLUX, "taken.png", request_id="exists"),
        BatchRequest("A bay", KONTEXT, "photo.png", {"input_image": "missing.png"}, "no file"),
        BatchRequest("[[nsfw]]", QWEN, "black.png", request_id="refused"),
    ]
    processor = IntelligentBatchProcessor(progress_callback=lambda *seen: progress.append(seen))
    results = asyncio.run(processor.process_intelligent_batch(requests))

    assert [each.request_id for each in requests] == [each.request_id for each in results]
    assert [False, False, True, False, False, False] == [each.success for each in results]
    reasons = ["is not supported", "num_outputs", None, "taken.png", "missing.png", "content_refused"]
    assert all(
        (reason is None) == (each.error is None) for reason, each in zip(reasons, results, strict=True)
    )
    assert all(reason in each.error for reason, each in zip(reasons, results, strict=True) if reason)
    assert ["black.png"] == results[5].file_paths
    assert is_the_black_picture("black.png")
    assert b"mine" == Path("taken.png").read_bytes()
    assert 3 == len(made())  # the good one, and two models of the refused one
    assert [(number, 6) for number in range(1, 7)] == [seen[:2] for seen in progress]
    assert (results[2:3], 5) == (processor.completed_results, len(processor.failed_tasks))
    assert (6, 1, 5) == tuple(
        processor.stats[f"total_{each}"] for each in ("submitted", "completed", "failed")
    )


def test_a_black_picture_is_not_among_the_files_of_the_prompts():
    files = asyncio.run(
        intelligent_batch_process(["a", "[[nsfw]]"], FLUX, output_filepath=["a.png", "b.png"])
    )

    assert (["a.png"], False) == (files, files.success)
    assert ["b.png"] == files.results[1].file_paths


def test_an_unknown_model_is_refused_before_anything_is_spent(made):

    with pytest.raises(ValueError, match="Supported models"):
        asyncio.run(intelligent_batch_process(["a"], "acme/nothing"))
    with pytest.raises(ValueError, match="2 paths for 1 prompts"):
        asyncio.run(intelligent_batch_process(["a"], FLUX, output_filepath=["a.png", "b.png"]))
    assert [] == made()


def test_the_token_of_a_call_pays_for_it(made):
    asyncio.run(
        intelligent_batch_process(["a"], QWEN, replicate_api_token="r8_other", global_max_concurrent=60)
    )

    assert "r8_other" == made()[0].token


def test_a_wrong_token_is_an_error_and_no_black_picture():
    with pytest.raises(Unauthenticated):
        asyncio.run(intelligent_batch_process(["a"], QWEN, replicate_api_token="wrong"))
    assert not Path("output").exists()


def test_a_batch_has_at_most_max_concurrent_predictions_in_flight(made):
    process([BatchRequest(f"[[slow=0.2]] {number}", FLUX) for number in range(4)], max_concurrent=1)

    assert 4 == len(made())
    assert all(one.completed_at <= other.created_at for one, other in pairwise(made()))


def test_a_batch_that_is_cancelled_is_cancelled_at_the_service(made):

    async def script():
        work = asyncio.create_task(intelligent_batch_process(["[[hang]] a", "[[hang]] b"], FLUX))
        await asyncio.to_thread(until, lambda: len(made()) == 2)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(script())
    assert {"canceled"} == {each.status for each in made()}


def test_a_callback_that_fails_costs_no_file(caplog):
    def fail(*seen):
        raise RuntimeError("no bar")

    processor = IntelligentBatchProcessor(progress_callback=fail)
    (result,) = asyncio.run(processor.process_intelligent_batch([BatchRequest("a", QWEN, "a.png")]))
    assert result.success
    assert "progress_callback failed" in caplog.text


def test_no_requests_are_no_results():
    assert [] == process([])
    assert config.REPLICATE_MODELS
