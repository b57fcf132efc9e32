"""Runs of these tests draw no pictures either."""

from tests.training.conftest import _no_pictures, drawn  # noqa: F401
