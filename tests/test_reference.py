"""docs/flags.md is what `python -m cct_tf.reference` prints, and that has every flag."""

import pathlib
import re

from cct_tf import evaluate, reference
from cct_tf.settings import config

PAGE = pathlib.Path(__file__).parents[1] / "docs/flags.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference.page(), "python -m cct_tf.reference > docs/flags.md"


def _rows(title):
    """{flag: the cells behind it} of a section of the page."""
    section = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", reference.page(), re.M | re.S)[1]
    return {flag: [cell.strip() for cell in re.split(r"(?<!\\)\|", cells)[:-1]]
            for flag, cells in re.findall(r"^\| `--(\w+).*?` \|(.*)", section, re.M)}


def test_every_field_of_a_config_has_a_row_with_its_kind():
    rows = _rows("cct_tf.train")
    assert list(rows) == list(config.FIELDS)
    kinds = {name: cells[2] for name, cells in rows.items()}
    assert (kinds["seed"], kinds["jit"], kinds["debug"]) == ("result", "how", "call")
    assert all((kinds[name] == "result") == (not field.how) for name, field in config.FIELDS.items())
    assert rows["flip"][:3] == ["`none`", "`random`, `alternating`, `none`", "result"]
    assert rows["momentum"][:2] == ["`0.9`", "a number of at least 0 and below 1"]


def test_of_another_command_the_flags_of_its_own_have_rows_and_the_others_are_named():
    own = [field.name for field in evaluate.FIELDS if config.FIELDS.get(field.name) is not field]
    assert list(_rows("cct_tf.evaluate")) == own
    assert "As in `cct_tf.train`: `--workdir`, `--data_dir`" in reference.page()
