"""`replicate_model_calling`: one generation, and the files that it writes."""

import subprocess
import sys
from pathlib import Path

import pytest
from replicate_batch_process import (
    config,
    global_concurrency_manager,
    init_environment,
    main,
    replicate_model_calling,
)
from replicate_concurrent import InvalidRequest, Unauthenticated

from tests.support.pictures import format_of, is_the_black_picture

FLUX, KONTEXT, QWEN = "black-forest-labs/flux-dev", "black-forest-labs/flux-kontext-max", "qwen/qwen-image"


def models_and_inputs(made):
    return [(each.model, each.input) for each in made()]


def test_a_prompt_becomes_the_file_asked_for_in_a_directory_that_is_made_and_nothing_is_printed(capfd):
    files = replicate_model_calling(prompt="A bay", model_name=QWEN, output_filepath="output/bay.jpg")

    assert ["output/bay.jpg"] == files
    assert files.success
    assert "JPEG" == format_of("output/bay.jpg")
    assert [Path("output/bay.jpg")] == list(Path("output").iterdir())
    assert ("", "") == capfd.readouterr()


def test_a_call_without_a_path_gets_a_new_name():
    first, second = (replicate_model_calling("A bay", QWEN) for _ in range(2))

    assert first != second
    assert [".jpg", ".jpg"] == [Path(path).suffix for path in (*first, *second)]


def test_an_extension_that_the_model_does_not_make_is_still_the_name(made):
    files = replicate_model_calling("A bay", KONTEXT, output_filepath="bay.webp")

    assert ["bay.webp"] == files
    assert "PNG" == format_of("bay.webp")
    assert "output_format" not in made()[0].input


def test_several_outputs_are_numbered_and_what_exists_costs_nothing_and_stays(made):
    assert ["bay_1.png", "bay_2.png"] == replicate_model_calling(
        "A bay", FLUX, output_filepath="bay.png", num_outputs=2
    )
    kept = Path("bay_2.png").read_bytes()

    with pytest.raises(FileExistsError, match="bay_1"):
        replicate_model_calling("A bay", FLUX, output_filepath="bay.png", num_outputs=2)
    assert 1 == len(made())
    assert kept == Path("bay_2.png").read_bytes()


def test_config_may_allow_that_files_are_replaced(monkeypatch):
    Path("bay.png").write_bytes(b"old")
    monkeypatch.setattr(config, "OVERWRITE", True)

    replicate_model_calling("A bay", QWEN, output_filepath="bay.png")
    assert "PNG" == format_of("bay.png")


@pytest.mark.parametrize("name", ["input_image", "image", "start_image", "reference_image"])
def test_a_reference_image_for_flux_dev_goes_to_kontext(name, photo, made):
    assert replicate_model_calling("Like this", FLUX, **{name: photo}).success

    (model, sent), *others = models_and_inputs(made)
    assert (KONTEXT, []) == (model, others)
    assert "input_image" in sent


def test_kontext_edits_an_image_by_any_name(photo, made):
    replicate_model_calling("Like this", KONTEXT, image=photo)

    ((model, sent),) = models_and_inputs(made)
    assert KONTEXT == model
    assert "input_image" in sent


@pytest.mark.parametrize("model", [QWEN, FLUX, KONTEXT])
def test_several_reference_images_lead_to_a_model_that_takes_so_many(model, photo, made):
    replicate_model_calling("Like these", model, image_input=[photo, Path(photo)])

    ((model, sent),) = models_and_inputs(made)
    assert "google/nano-banana" == model
    assert 2 == len(sent["image_input"])


def test_a_local_file_that_is_missing_costs_nothing(made):
    with pytest.raises(FileNotFoundError, match=r"input_image.*path/to/image\.jpg"):
        replicate_model_calling("Like this", FLUX, input_image="path/to/image.jpg")
    assert [] == models_and_inputs(made)


def test_parameters_that_the_model_does_not_have_lead_to_the_model_of_the_rule(made):
    files = replicate_model_calling("A bay", KONTEXT, guidance=3.5, num_outputs=2)

    ((model, sent),) = models_and_inputs(made)
    assert FLUX == model  # qwen-image, to which the rule leads, makes one output
    assert (3.5, 2) == (sent["guidance"], sent["num_outputs"])
    assert 2 == len(files)


def test_parameters_that_no_model_has_are_left_out_and_logged(made, caplog):
    caplog.set_level("INFO")
    replicate_model_calling("A bay", "google/imagen-4-ultra", output_quality=90, mood="calm")

    ((model, sent),) = models_and_inputs(made)
    assert "google/imagen-4-ultra" == model
    assert {"prompt", "output_format"} == sent.keys()
    assert "mood" in caplog.text


def test_a_video_takes_an_image_by_any_name_and_has_no_black_picture(photo, made):
    files = replicate_model_calling("A wave", "kwaivgi/kling-v2.1-master", image=photo)

    assert "start_image" in made()[0].input
    assert ".mp4" == Path(files[0]).suffix


def test_an_invalid_value_names_its_field_and_costs_nothing(made):
    with pytest.raises(InvalidRequest) as refused:
        replicate_model_calling("A bay", FLUX, num_outputs=9)

    assert ["num_outputs"] == [each.field for each in refused.value.fields]
    assert [] == models_and_inputs(made)


def test_a_model_that_does_not_exist_is_refused_with_the_names_of_the_others():
    with pytest.raises(ValueError, match="Model 'acme/nothing' is not supported") as refused:
        replicate_model_calling("A bay", "acme/nothing")

    assert f"\n  - {QWEN}\n" in str(refused.value)
    assert str(refused.value).endswith("Please use one of the supported models listed above.")


def test_an_alias_is_the_model_with_its_rules(photo, made):
    replicate_model_calling("Like this", "flux-dev", input_image=photo)

    assert [KONTEXT] == [each.model for each in made()]
    assert "flux-dev" not in config.REPLICATE_MODELS


def test_a_model_of_replicate_that_is_not_declared_runs():
    files = replicate_model_calling("A tune", "acme/musician", output_filepath="tune.wav")

    assert ["tune.wav"] == files
    assert 0 < Path("tune.wav").stat().st_size


def test_the_models_fail_in_the_order_of_the_rules_and_leave_a_black_picture(made):
    files = replicate_model_calling("A bay [[nsfw]]", KONTEXT, output_filepath="bay.jpg")

    assert [KONTEXT, QWEN, FLUX] == [each.model for each in made()]
    assert (["bay.jpg"], False) == (files, files.success)
    assert "content_refused" in files.error
    assert is_the_black_picture("bay.jpg")


def test_rules_of_a_program_hold_for_its_later_calls(made, monkeypatch):
    rules = {
        KONTEXT: {"fail": {"fallback_model": "black-forest-labs/flux-schnell", "condition": "api_error"}}
    }
    monkeypatch.setattr(config, "FALLBACK_MODELS", rules)

    assert replicate_model_calling("A bay [[nsfw]] [[only=flux-kontext-max]]", KONTEXT).success
    assert [KONTEXT, "black-forest-labs/flux-schnell"] == [each.model for each in made()]


def test_a_dotenv_file_has_the_token(made, monkeypatch):
    monkeypatch.delenv("REPLICATE_API_TOKEN")
    with pytest.raises(Unauthenticated):
        replicate_model_calling("A bay", QWEN)
    Path(".env").write_text('# mine\nexport REPLICATE_API_TOKEN="r8_of_the_file"\n')

    replicate_model_calling("A bay", QWEN)
    assert "r8_of_the_file" == made()[0].token


def test_the_facts_of_models_are_those_of_the_service():
    assert main.supports_reference_image(KONTEXT)
    assert "input_image" == main.get_image_input_param_name(KONTEXT)
    facts = main.get_supported_parameters(KONTEXT, format_for_display=False)
    assert "file" == facts["supported_parameters"]["input_image"]["type"]
    assert ["jpg", "png"] == facts["supported_parameters"]["output_format"]["options"]
    assert (0.08, "image") == (facts["price"], facts["model_type"])
    assert KONTEXT in main.show_all_models_parameters()


def test_the_global_status_has_the_slots_of_the_service():
    status = global_concurrency_manager.get_global_status()

    assert status["global_max_concurrent"] == status["available_slots"] + status["current_concurrent"]
    assert 100 * status["current_concurrent"] == (
        status["utilization_percentage"] * status["global_max_concurrent"]
    )


def test_the_command_shows_the_path(capsys):
    main.main(["--prompt", "A bay", "--model", QWEN, "--output", "bay.png"])

    assert "bay.png\n" == capsys.readouterr().out


def test_the_import_is_refused_beside_the_original(tmp_path):
    beside = tmp_path / "replicate_batch_process-1.1.1.dist-info"
    beside.mkdir()
    (beside / "METADATA").write_text("Metadata-Version: 2.1\nName: replicate-batch-process\nVersion: 1.1.1\n")
    script = f"import sys; sys.path[:0] = {[*sys.path, str(tmp_path)]!r}; import replicate_batch_process"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert 1 == done.returncode
    assert "ImportError: replicate-batch-process 1.1.1 and replicate-batch-process-compat" in done.stderr


def test_replicate_init_is_the_init_of_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["replicate-init", "--help"])

    with pytest.raises(SystemExit) as ended:
        init_environment.main()
    assert 0 == ended.value.code
    assert "rcg init" in capsys.readouterr().out
