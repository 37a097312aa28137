"""The records of models that were looked up or trained: their schemas, and how long their predictions run."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchemaRecord:
    """The published schema of a version of a model, which never changes. `document` is JSON, compressed by zlib: the
    OpenAPI document, a text with the reason if it cannot be read, or null if the version has none. `model` is
    `owner/name`, and `seen_at` the time at which it was read.

    It names no readers: those who have a `ModelRecord` with this version may."""

    version: str
    simulated: bool
    model: str
    document: bytes
    seen_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A model as it was found at `looked_up_at`, or that it was `missing`.

    `reader` is empty for a public model. Else it is the account, or the caller, that could read it. `name` is
    `owner/name`, `owner/name:version` or `deployments/owner/name`. `version` is the latest one, that which the name
    names, or that which the deployment runs. `is_official` is None if Replicate did not show it. `facts` is a JSON
    object with further findings."""

    reader: str
    name: str
    simulated: bool
    version: str | None = None
    is_official: bool | None = None
    description: str = ""
    facts: str = "{}"
    missing: bool = False
    looked_up_at: float


@dataclass(frozen=True, slots=True)
class LookupRecord:
    """A look-up of a model that one process makes for all. It counts until this time if it is not over before. Once it
    `is_over`, those that know the model from before need no other until this time."""

    reader: str
    name: str
    simulated: bool
    until: float
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class RunRecord:
    """For how many seconds a prediction of this target ran (`Model.target`). There are as many as there are slots."""

    target: str
    simulated: bool
    slot: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModelRecord:
    """A version that a training made: `version` is its id at Replicate, `name` the model that has it, `owner/name`.
    `trainer` made it, as `owner/name`, for the work `work_id`, which may be deleted by now. The `trigger_word` stands
    for its subject in prompts."""

    version: str
    simulated: bool
    name: str
    trigger_word: str | None = None
    trainer: str
    work_id: str
    trained_at: float
