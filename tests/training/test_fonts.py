"""Class names in pictures: letters, or numbers, never boxes."""

import warnings

import numpy as np
import pytest

from cct_tf.training import fonts, plots

NAMES = ("cat", "Käse", "кошка", "\u732b", "\u72ac")  # the last two are Chinese


@pytest.fixture
def without_fonts(monkeypatch):
    monkeypatch.setattr(fonts, "_installed", lambda: [])
    fonts._covering.cache_clear()
    yield
    fonts._covering.cache_clear()


def test_names_without_a_font_become_their_numbers(without_fonts):
    assert fonts.readable(NAMES) == ["cat", "Käse", "кошка", "class 3", "class 4"]


def test_names_are_drawn_where_a_font_has_their_letters(monkeypatch):
    """Whatever is installed: a font of the system, stood in for by DejaVu Sans under a set of letters of its own."""
    own = fonts._own_letters()
    monkeypatch.setattr(fonts, "_installed", lambda: ["without", "with"])
    monkeypatch.setattr(fonts, "_letters_of", lambda path: {"with": frozenset(map(ord, "\u732b\u72ac"))}.get(path, own))
    monkeypatch.setattr(fonts, "_family", lambda path: f"family {path}")
    fonts._covering.cache_clear()
    assert fonts.readable(NAMES) == list(NAMES)
    assert fonts._covering(frozenset(map(ord, "\u732b"))) == (("family with",), frozenset())
    fonts._covering.cache_clear()


def test_figures_show_numbers_and_say_nothing(without_fonts, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = plots.as_array(plots.confusion_figure(np.eye(5, dtype=int), NAMES, "runs/x"))
    numbers = plots.as_array(plots.confusion_figure(np.eye(5, dtype=int), fonts.readable(NAMES), "runs/x"))
    assert np.array_equal(found, numbers) and capfd.readouterr() == ("", "")
