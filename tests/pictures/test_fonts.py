"""Class names in pictures: letters, or numbers, never boxes."""

import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib import ft2font

from cct_tf.pictures import fonts, plots

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
    has = {"without": "", "with": "\u732b\u72ac"}
    monkeypatch.setattr(fonts, "_installed", lambda: ["without", "with"])
    monkeypatch.setattr(fonts, "_found_in", lambda path, letters: letters.intersection(map(ord, has[path])))
    monkeypatch.setattr(fonts, "_family", lambda path: f"family {path}")
    fonts._covering.cache_clear()
    assert fonts.readable(NAMES) == list(NAMES)
    assert fonts._covering(frozenset(map(ord, "\u732b"))) == (("family with",), frozenset())
    fonts._covering.cache_clear()


def _with_fonts(monkeypatch, *names):
    """Has these fonts of matplotlib's be the installed ones."""
    monkeypatch.setattr(fonts, "_installed", lambda: [f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf"
                                                      for name in names])
    fonts._covering.cache_clear()


def test_a_real_font_is_drawn_with(monkeypatch):
    watch = "\N{WATCH}"  # DejaVu Sans lacks it
    drawn = []
    for names in ((), ("STIXGeneral",)):
        _with_fonts(monkeypatch, *names)
        drawn.append(plots.as_array(plots.confusion_figure(np.eye(2, dtype=int), ["cat", watch])))
    assert fonts.readable([watch]) == [watch] and drawn[0].tobytes() != drawn[1].tobytes()
    fonts._covering.cache_clear()


def test_the_font_of_last_resort_which_has_boxes_is_left_alone(monkeypatch):
    _with_fonts(monkeypatch, "LastResortHE-Regular")
    assert fonts.readable(NAMES) == ["cat", "Käse", "кошка", "class 3", "class 4"]
    fonts._covering.cache_clear()


def test_a_font_of_pictures_which_matplotlib_refuses_is_left_alone(monkeypatch):
    """As Noto Color Emoji is: it has one size."""
    class Pictures:
        def __init__(self, path):
            self.scalable, self.family_name = False, "Pictures"

        def get_char_index(self, letter):
            return 1

    fonts._own_letters()  # by real fonts, of which matplotlib makes a list
    monkeypatch.setattr(ft2font, "FT2Font", Pictures)
    assert not fonts._found_in("pictures.ttf", frozenset(map(ord, "\N{FOX FACE}")))


def test_figures_show_numbers_and_say_nothing(without_fonts, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = plots.as_array(plots.confusion_figure(np.eye(5, dtype=int), NAMES, "runs/x"))
    numbers = plots.as_array(plots.confusion_figure(np.eye(5, dtype=int), fonts.readable(NAMES), "runs/x"))
    assert np.array_equal(found, numbers) and capfd.readouterr() == ("", "")
