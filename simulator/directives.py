"""Directives in a prompt, which choose how its prediction goes.

A directive is in double brackets anywhere in the prompt. The rest of the prompt is drawn as usual. With it a test, or a
reader of the README's examples, gets a chosen outcome:

    [[fail]] [[fail=text]]   failed, out of memory or with the given error
    [[nsfw]]                 failed, refused for its content
    [[transient]]            failed with a code worth retrying; the same prompt then succeeds
    [[hang]]                 processing until it is cancelled or its deadline passes
    [[cold]]                 starting until it is cancelled or its deadline passes
    [[slow=3]]               exactly three seconds; with 0 the response to its creation shows its end
    [[boot=60]]              starting for so many seconds before it runs, beside the boot of its model
    [[output={"a": "<png>"}]]  succeeded with this output, in which <png>, <mp4>, <glb> and so on are links of files
    [[empty]]                succeeded with no output at all
    [[fewer]]                succeeded with one output fewer than found for
    [[text]] [[text=words]]  succeeded with a text in place of pictures; with [[fewer]], in place of one of them
    [[gone]] [[blank]] [[page]]  succeeded, and each output is a 404, an empty file or a web page
    [[aborted]] [[canceled]] ended by Replicate, before or after it started
    [[early]]                it has its output while its status is still processing
    [[sparse]]               responses leave out every optional field
    [[only=flux-dev,x/y]]    the other directives are only for these models, by short or full name

For a model without a prompt, the directives are those in any text of its input, such as the URL of an image.

Durations and outcomes combine: `[[slow=0.2]] [[nsfw]]`. With `[[only=...]]` one prompt can fail on one
model and succeed on the next: for other models than those named, the prompt has no directives.

A training has the directives of any text of its input, such as its trigger word, and of the name of its destination.
`[[fail]]` is then the failure of Replicate to make the new version. These are for trainings only:

    [[torn]]                 succeeded, and the safetensors file in its weights lacks its end
    [[cut]]                  succeeded, and the archive of its weights lacks its end
"""

import re
from dataclasses import dataclass, replace

OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.15 GiB of "
    "which 1.19 GiB is free."
)
NSFW = "NSFW content detected. Try running it again, or try a different prompt."
DECLINED = "I cannot draw that."
NOT_MADE = "Training failed. Failed to create trained image after successful training run"
INTERRUPTED = "Prediction interrupted; please retry (code: PA)"

FOREVER = float("inf")

_CONTENTS = ("gone", "blank", "page")
_DAMAGES = ("torn", "cut")

# The last two of a row of brackets end it, so that JSON may end with a bracket.
_DIRECTIVE = re.compile(r"\[\[(\w+)(?:=(.*?))?\]\](?!\])", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Plan:
    """The planned course of a prediction.

    Attributes:
        boot: Seconds spent starting.
        total: Seconds from creation to the end.
        final_status: The status at its end; "processing" if its output comes early.
        error: The error at its end.
        outputs: The part of the requested outputs that it puts out: "all", "fewer" or "none".
        text: The text that it puts out in place of pictures.
        content: The content at the URLs of its outputs, in place of pictures: "gone", "blank" or "page". The weights of
            a training can also be "torn" or "cut".
        output: The JSON text of the output that it puts out in place of that of its schema.
        sparse: Whether its JSON leaves out every optional field.
    """

    boot: float
    total: float
    final_status: str = "succeeded"
    error: str | None = None
    outputs: str = "all"
    sparse: bool = False
    text: str | None = None
    content: str | None = None
    output: str | None = None


def plan_training(found: dict[str, str], *, usual: float, interrupted: bool) -> Plan:
    """The course of a training. Its output never comes before its end, and is neither a text nor one of several."""
    known = {name: value for name, value in found.items() if name not in ("early", "text", "fewer")}
    course = plan(known, usual=usual, interrupted=interrupted, failure=NOT_MADE)
    damage = next((each for each in _DAMAGES if each in known), None)
    return replace(course, content=course.content or damage)


def parse(prompt: str, *, model: str) -> dict[str, str]:
    """The directives in `prompt` for `model`, each with its value or an empty string.

    `model` is a full name: `owner/name`.
    """
    if "[[" not in prompt:
        return {}
    found = dict(_DIRECTIVE.findall(prompt))
    if "only" in found:
        models = {name.strip() for name in found.pop("only").split(",")}
        if models.isdisjoint({model, model.rpartition("/")[2]}):
            return {}
    return found


def remove(prompt: str) -> str:
    """The prompt without its directives."""
    return " ".join(_DIRECTIVE.sub(" ", prompt).split())


def plan(found: dict[str, str], *, usual: float, interrupted: bool, failure: str = OUT_OF_MEMORY) -> Plan:
    """The course of a prediction with the directives `found` that would usually take `usual` seconds.

    With `interrupted`, `[[transient]]` applies to this prediction. `failure` is the error of `[[fail]]`.
    """
    total = _seconds(found.get("slow"), usual)
    boot = min(total / 5, 1.0)
    extra = _seconds(found.get("boot"), 0.0)
    boot, total = boot + extra, total + extra
    if "hang" in found:
        total = FOREVER
    if "cold" in found:
        boot = total = FOREVER
    final_status, error, outputs = _outcome(found, interrupted=interrupted, failure=failure)
    if final_status == "aborted":
        boot = FOREVER
    text = (found["text"] or DECLINED) if "text" in found else None
    content = next((each for each in _CONTENTS if each in found), None)
    output = found.get("output") or None
    return Plan(boot, total, final_status, error, outputs, "sparse" in found, text, content, output)


def _seconds(value: str | None, usual: float) -> float:
    try:
        return min(max(float(value), 0.0), 1800.0) if value else usual
    except ValueError:
        return usual


def _outcome(found: dict[str, str], *, interrupted: bool, failure: str) -> tuple[str, str | None, str]:
    """Status, error and outputs."""
    if interrupted:
        return "failed", INTERRUPTED, "none"
    if "nsfw" in found:
        return "failed", NSFW, "none"
    if "fail" in found:
        return "failed", found["fail"] or failure, "none"
    for status in ("aborted", "canceled"):
        if status in found:
            return status, None, "none"
    if "early" in found:
        return "processing", None, "all"
    outputs = "none" if "empty" in found else "fewer" if "fewer" in found else "all"
    return "succeeded", None, outputs
