"""What a prompt can ask of its own prediction.

A directive is written in double brackets anywhere in a prompt, and the rest of the prompt is
painted as ever. It is how a test, or a person at the README's examples, gets the outcome they want
to see:

    [[fail]] [[fail=text]]   failed, out of memory or with the given error
    [[nsfw]]                 failed, refused for its content
    [[transient]]            failed with a code worth retrying; the same prompt then succeeds
    [[hang]]                 processing until it is cancelled or its deadline passes
    [[cold]]                 starting until it is cancelled or its deadline passes
    [[slow=3]]               exactly three seconds; with 0 it is over when its creation is answered
    [[empty]]                succeeded with no output at all
    [[fewer]]                succeeded with one output fewer than asked for
    [[text]] [[text=words]]  succeeded with a text and no picture; with [[fewer]], one picture fewer and the text
    [[gone]] [[blank]] [[page]]  succeeded, and each output is a 404, an empty file or a web page when it is fetched
    [[aborted]] [[canceled]] ended by Replicate, before or after it started
    [[early]]                its output is there while its status still says processing
    [[sparse]]               answers leave out every field they may
    [[only=flux-dev,x/y]]    the others are meant for these models alone, by short or full name

Durations and outcomes combine: `[[slow=0.2]] [[nsfw]]`. With `[[only=...]]` one prompt can fail on one
model and succeed on the next: to any model it does not name, the prompt has no directives at all.
"""

import re
from dataclasses import dataclass

OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.15 GiB of "
    "which 1.19 GiB is free."
)
NSFW = "NSFW content detected. Try running it again, or try a different prompt."
DECLINED = "I cannot draw that."
INTERRUPTED = "Prediction interrupted; please retry (code: PA)"

FOREVER = float("inf")

_DIRECTIVE = re.compile(r"\[\[(\w+)(?:=([^\]]*))?\]\]")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a prediction will go.

    Attributes:
        boot: Seconds spent starting.
        total: Seconds from creation to the end.
        ending: The status it ends with; "processing" for one whose output comes early.
        error: The error it ends with.
        outputs: What becomes of its outputs: "all", "fewer" or "none".
        text: The text that it puts out in place of pictures.
        instead: The content at the addresses of its outputs, in place of pictures: "gone", "blank" or "page".
        sparse: Whether its JSON leaves out every field that may be left out.
    """

    boot: float
    total: float
    ending: str = "succeeded"
    error: str | None = None
    outputs: str = "all"
    sparse: bool = False
    text: str | None = None
    instead: str | None = None


def read(prompt: str, *, model: str) -> dict[str, str]:
    """The directives in `prompt` that are meant for `model`, each with its value or an empty string.

    `model` is a full name: `owner/name`.
    """
    if "[[" not in prompt:
        return {}
    asked = dict(_DIRECTIVE.findall(prompt))
    if "only" in asked:
        meant = {name.strip() for name in asked.pop("only").split(",")}
        if meant.isdisjoint({model, model.rpartition("/")[2]}):
            return {}
    return asked


def without(prompt: str) -> str:
    """The prompt as a person would read it."""
    return " ".join(_DIRECTIVE.sub(" ", prompt).split())


def plan(asked: dict[str, str], *, usual: float, interrupted: bool) -> Plan:
    """What the directives `asked` make of a prediction that would take `usual` seconds.

    `interrupted` says whether `[[transient]]` strikes this time.
    """
    total = _seconds(asked.get("slow"), usual)
    boot = min(total / 5, 1.0)
    if "hang" in asked:
        total = FOREVER
    if "cold" in asked:
        boot = total = FOREVER
    ending, error, outputs = _outcome(asked, interrupted=interrupted)
    if ending == "aborted":
        boot = FOREVER
    text = (asked["text"] or DECLINED) if "text" in asked else None
    instead = next((each for each in ("gone", "blank", "page") if each in asked), None)
    return Plan(boot, total, ending, error, outputs, "sparse" in asked, text, instead)


def _seconds(value: str | None, usual: float) -> float:
    try:
        return min(max(float(value), 0.0), 1800.0) if value else usual
    except ValueError:
        return usual


def _outcome(asked: dict[str, str], *, interrupted: bool) -> tuple[str, str | None, str]:
    """Status, error and outputs."""
    if interrupted:
        return "failed", INTERRUPTED, "none"
    if "nsfw" in asked:
        return "failed", NSFW, "none"
    if "fail" in asked:
        return "failed", asked["fail"] or OUT_OF_MEMORY, "none"
    for ending in ("aborted", "canceled"):
        if ending in asked:
            return ending, None, "none"
    if "early" in asked:
        return "processing", None, "all"
    outputs = "none" if "empty" in asked else "fewer" if "fewer" in asked else "all"
    return "succeeded", None, outputs
