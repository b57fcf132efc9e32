"""Flagfiles and flags: what wins, where paths are looked for, and that a config survives being written down."""

import pathlib

import pytest

from cct_tf.assembly import checks
from cct_tf.errors import UserError
from cct_tf.settings import config, flags

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.cfg"))
FIELDS = list(config.FIELDS.values())


def _parse(*argv):
    return flags.parse(list(argv), FIELDS)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_the_command_line_wins_over_a_flagfile_wherever_it_stands(tmp_path, order):
    (tmp_path / "a.cfg").write_text("--epochs=3\n--batch_size=32\n")
    argv = [f"--flagfile={tmp_path}/a.cfg", "--epochs=5"][order]
    assert _parse(*argv) == {"epochs": 5.0, "batch_size": 32}


def test_nested_files_are_found_beside_the_file_that_names_them_and_lose_to_it(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/base.cfg").write_text("--epochs=3\n--seed=7\n")
    (tmp_path / "outer.cfg").write_text("--epochs=4\n--flagfile=inner/base.cfg\n")
    monkeypatch.chdir("/")
    assert _parse(f"--flagfile={tmp_path}/outer.cfg") == {"epochs": 4.0, "seed": 7}


def test_comments_and_blank_lines_are_no_part_of_a_value(tmp_path):
    (tmp_path / "a.cfg").write_text("# head\n\n--epochs=3  # three\n  --model=cct_2_3x1_16\t# small\n")
    assert _parse(f"--flagfile={tmp_path}/a.cfg") == {"epochs": 3.0, "model": "cct_2_3x1_16"}


def test_an_error_in_a_flagfile_names_file_and_line(tmp_path):
    (tmp_path / "a.cfg").write_text("--epochs=3\n--batch_size=many\n")
    with pytest.raises(UserError, match="a.cfg:2: --batch_size: expected an integer of at least 1"):
        _parse(f"--flagfile={tmp_path}/a.cfg")


def test_dashes_inside_a_flag_of_a_flagfile_are_spelt_out(tmp_path):
    (tmp_path / "a.cfg").write_text("--epochs=3\n--batch-size 8\n")
    with pytest.raises(UserError, match=r"a.cfg:2: --batch-size: .* did you mean --batch_size=8\?"):
        _parse(f"--flagfile={tmp_path}/a.cfg")


def test_values_of_every_kind():
    given = _parse("--epochs", "2.5", "--deterministic", "--nodebug", "--dry_run=true", "--mean=0.5", "--train_steps=",
                   "--random_resized_crop=0.8,1")
    assert given == {"epochs": 2.5, "deterministic": True, "debug": False, "dry_run": True, "mean": (0.5,),
                     "train_steps": None, "random_resized_crop": (0.8, 1.0)}


def test_a_config_written_as_a_flagfile_reads_back_equal(tmp_path):
    made = config.from_dict({"workdir": "runs/with space", "random_resized_crop": (0.1, 1 / 3), "std": (0.1, 0.2, 0.3),
                             "mean": (0.0, 1 / 7, 1.0), "train_steps": 12, "clip_norm": None, "deterministic": True,
                             "learning_rate": 1 / 3})
    (tmp_path / "config.cfg").write_text(flags.as_flagfile(made))
    assert flags.load_config([f"--flagfile={tmp_path}/config.cfg"]) == made


def test_what_belongs_to_one_call_is_not_written_down():
    text = flags.as_flagfile(config.from_dict({"dry_run": True, "debug": True, "accept_config_change": True}))
    assert not {"--dry_run", "--debug", "--accept_config_change"} & {line.split("=")[0] for line in text.splitlines()}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_is_whole(path, monkeypatch, tmp_path):
    """It parses, names a work folder under runs/, and its network can be built."""
    monkeypatch.chdir(tmp_path)
    made = flags.load_config([f"--flagfile={path}"])
    assert made.run.workdir == f"runs/{path.stem}"
    checks.check_model(made.model, made.augment.image_size)
    head = path.read_text().split("\n\n--")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    for word in ("command", "hardware", "time", "seen here"):
        assert f"#   {word} " in head, f"{path.name}: {word}"


def test_differences_tell_what_defines_the_result_from_how_it_is_computed():
    old = config.from_dict({"learning_rate": 0.1, "num_replicas": 2}).as_dict()
    new = config.from_dict({"learning_rate": 0.2}).as_dict()
    defining, how = config.differences(old, new)
    assert defining == [("learning_rate", 0.1, 0.2)]
    assert how == [("num_replicas", 2, None)]


def test_a_field_added_later_counts_as_its_default_in_old_checkpoints():
    old = config.from_dict({}).as_dict()
    del old["crop_padding"]
    assert config.differences(old, config.from_dict({}).as_dict()) == ([], [])
    assert config.differences(old, config.from_dict({"crop_padding": 4}).as_dict())[0] == [("crop_padding", 0, 4)]


PLACED = [*FIELDS, flags.command_field("attention", str, None, "a folder", bare="here")]


@pytest.mark.parametrize(("argv", "expected"), [
    (["a.png", "--seed=3", "b.png"], {"images": ["a.png", "b.png"], "seed": 3}),
    (["--seed", "3", "a.cfg"], {"images": ["a.cfg"], "seed": 3}),
    (["--attention", "a.png"], {"images": ["a.png"], "attention": "here"}),  # a flag that may stand alone takes nothing
    (["--attention=there", "a.png"], {"images": ["a.png"], "attention": "there"}),
    (["a.png", "--", "--seed=3", "-"], {"images": ["a.png", "--seed=3", "-"]}),
    ([], {"images": []}),
])
def test_positional_arguments_of_a_command_that_takes_some(argv, expected):
    assert flags.parse(argv, PLACED, "images") == expected


def test_a_flagfile_holds_no_positional_arguments(tmp_path):
    (tmp_path / "a.cfg").write_text("a.png\n")
    with pytest.raises(UserError, match="a.cfg:1: expected --flag=value, found 'a.png'"):
        flags.parse([f"--flagfile={tmp_path}/a.cfg"], PLACED, "images")
