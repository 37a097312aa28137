"""Fixtures of the tests over HTTP."""

import pytest

from tests.support.text_calls import GEMINI_KEY


@pytest.fixture
def texts(make_app, simulator):
    """Makes clients of a service that has a Gemini key."""
    simulator.gemini.configure(first_seconds=0, seconds=0)

    def make(**settings):
        return make_app(GEMINI_API_KEY=GEMINI_KEY, GEMINI_BASE_URL=simulator.url, **settings).test_client()

    return make
