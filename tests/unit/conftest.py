"""A clock that tests set."""

import pytest


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    """A clock in seconds that begins at 0."""
    return Clock()
