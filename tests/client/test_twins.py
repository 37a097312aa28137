"""The two clients are one: the same methods, arguments and documents. And all public names exist."""

import inspect

import pytest
import replicate_concurrent
from replicate_concurrent import (
    AsyncBatchHandle,
    AsyncClient,
    AsyncHandle,
    BatchHandle,
    Client,
    Handle,
    named_keys,
)

TWINS = [
    (Client, AsyncClient),
    (Handle, AsyncHandle),
    (BatchHandle, AsyncBatchHandle),
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


def test_each_public_name_is_there_and_has_a_document():
    assert [] == [
        name for name in replicate_concurrent.__all__ if getattr(replicate_concurrent, name).__doc__ is None
    ]
    with pytest.raises(AttributeError):
        replicate_concurrent.Nothing  # noqa: B018
