"""One generation, and facts about the models."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from replicate_concurrent import Client

from replicate_batch_process import config, saving
from replicate_batch_process.connection import options
from replicate_batch_process.jobs import Jobs
from replicate_batch_process.outcomes import Files, error_of


def replicate_model_calling(prompt: str, model_name: str, **kwargs: Any) -> Files:
    """Make one generation, and return the paths of its files.

    `kwargs` are the parameters of the model, `output_filepath`, and `replicate_api_token` for another token than that
    of the environment. If every model of the rules fails, the file is a black picture, and `success` of the result is
    false. Ctrl-C cancels the generation.

    Raises ValueError for a model that the service does not have, FileNotFoundError and FileExistsError before anything
    is spent, and else an error of `replicate_concurrent`.
    """
    path, token = kwargs.pop("output_filepath", None), kwargs.pop("replicate_api_token", None)
    job = Jobs(token).job(prompt, model_name, path, kwargs)
    with Client(**options(token)) as client:
        work = client.submit(model=job.model, **job.fields)
        try:
            made = work.wait()
        except KeyboardInterrupt:
            work.cancel()
            raise
        files = saving.save(made, job.path, overwrite=config.OVERWRITE)
    return Files(files, error=error_of(made))


def supports_reference_image(model_name: str) -> bool:
    """Whether the model takes a reference image. False for an unknown model, as in all of these."""
    return bool(config.REPLICATE_MODELS.get(model_name, {}).get("reference_image", False))


def get_image_input_param_name(model_name: str) -> str | None:
    """The parameter of the model for a reference image."""
    name: str | None = config.REPLICATE_MODELS.get(model_name, {}).get("image_parameter")
    return name


def supports_reference_audio(model_name: str) -> bool:
    """Whether the model takes sound."""
    return bool(config.REPLICATE_MODELS.get(model_name, {}).get("reference_audio", False))


def get_audio_input_param_name(model_name: str) -> str | None:
    """The parameter of the model for sound."""
    params = config.REPLICATE_MODELS.get(model_name, {}).get("supported_params", {})
    return next((name for name in params if "audio" in name and params[name]["type"] == "file"), None)


def get_supported_parameters(model_name: str, format_for_display: bool = True) -> str | dict[str, Any]:
    """What the model is and takes, as a text or as a dict; a sentence for an unknown model."""
    model = config.REPLICATE_MODELS.get(model_name)
    if model is None:
        return f"Model '{model_name}' not found in configuration"
    facts = {
        "model_name": model_name,
        "model_type": model["model_type"],
        "price": model["price"],
        "description": model["description"],
        "reference_image_support": model["reference_image"],
        "supported_parameters": model["supported_params"],
    }
    if not format_for_display:
        return facts
    lines = [f"{model_name} ({facts['model_type']}, USD {facts['price']})"]
    for name, each in model["supported_params"].items():
        lines += [f"  {name}: {', '.join(f'{fact} {value}' for fact, value in each.items())}"]
    return "\n".join(lines)


def show_all_models_parameters() -> dict[str, Any]:
    """The dict of `get_supported_parameters` for each model."""
    return {
        name: get_supported_parameters(name, format_for_display=False) for name in config.REPLICATE_MODELS
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `replicate-batch`. It shows one path a line, and ends with status 1 for a black picture."""
    parser = argparse.ArgumentParser(prog="replicate-batch", description="Generate one prompt.")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--model", default="black-forest-labs/flux-dev")
    parser.add_argument("--output", help="the path of the file")
    options = parser.parse_args(arguments)
    files = replicate_model_calling(options.prompt, options.model, output_filepath=options.output)
    sys.stdout.writelines(f"{path}\n" for path in files)
    if not files.success:
        sys.exit(f"{files.error}")
