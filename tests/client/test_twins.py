"""The two clients are one: the same methods, arguments and documents. And all public names exist."""

import inspect
from dataclasses import is_dataclass

import pytest
import replicate_concurrent
from replicate_concurrent import (
    AsyncBatchHandle,
    AsyncClient,
    AsyncHandle,
    AsyncTrainingHandle,
    Batch,
    BatchHandle,
    ChatDelta,
    Client,
    Event,
    FieldProblem,
    Generation,
    Handle,
    Key,
    Model,
    Plan,
    Status,
    TokenUsage,
    Training,
    TrainingHandle,
    TrainingPlan,
    Upload,
    Usage,
    named_keys,
)

TWINS = [
    (Client, AsyncClient),
    (Handle, AsyncHandle),
    (BatchHandle, AsyncBatchHandle),
    (TrainingHandle, AsyncTrainingHandle),
    (named_keys.Keys, named_keys.AsyncKeys),
]

CLOSES = {"close": "aclose"}


def methods(kind, *, renamed):
    """The parameters and the document of each public method."""
    return {
        renamed.get(name, name): (str(inspect.signature(each).replace(return_annotation=None)), each.__doc__)
        for name, each in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(("blocking", "on_asyncio"), TWINS)
def test_both_kinds_have_the_same_methods_parameters_and_documents(blocking, on_asyncio):
    assert methods(blocking, renamed=CLOSES) == methods(on_asyncio, renamed={})


def test_results_are_frozen_and_have_the_json_of_the_service():
    public = [getattr(replicate_concurrent, name) for name in replicate_concurrent.__all__]
    kinds = [each for each in public if is_dataclass(each) and not issubclass(each, Exception)]
    parts = [
        each for each in kinds if not hasattr(each, "raw") and "raw" not in inspect.signature(each).parameters
    ]

    assert {Batch, Event, Generation, Key, Model, Plan, Status, Training, TrainingPlan, Upload, Usage} < {
        *kinds
    }
    assert [] == [each for each in kinds if not each.__dataclass_params__.frozen]
    assert {ChatDelta, FieldProblem, TokenUsage} == {*parts}  # of answers


def test_each_public_name_is_there_and_has_a_document():
    assert [] == [
        name for name in replicate_concurrent.__all__ if getattr(replicate_concurrent, name).__doc__ is None
    ]
    with pytest.raises(AttributeError):
        replicate_concurrent.Nothing  # noqa: B018
