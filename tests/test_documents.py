"""README.md, WORKSPACE.md and docs/: links lead somewhere, the programs take the commands, pages are short."""

import ast
import importlib
import pathlib
import re
import shlex
import tomllib

import pytest

from cct_tf.errors import UserError
from cct_tf.machine import own_code
from cct_tf.models import __main__ as models
from cct_tf.models import variants
from cct_tf.settings import command, config, flags
from tests import commands

REPO = pathlib.Path(__file__).parents[1]
PAGES = [REPO / "README.md", REPO / "WORKSPACE.md", *sorted((REPO / "docs").rglob("*.md"))]
GUIDES = sorted((REPO / "docs").glob("*.md"))
LONG = {"flags.md": "a generated table"}
SCRIPTS = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
OTHER_PROGRAMS = {"docker", "kubectl", "pip", "source", "tensorboard"}
PLACEHOLDER = re.compile(r"\.\.\.|\[|FLAGS|\bN\b|NAME|FILE")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def _read(path):
    return path.read_text(encoding="utf-8")


def _id(path):
    return str(path.relative_to(REPO)) if isinstance(path, pathlib.Path) else None


def _anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    found = []
    for heading in re.findall(r"^#+ (.+)$", _FENCE.sub("", _read(path)), re.M):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\]\(.*?\)", "", heading).lower()).replace(" ", "-")
        found.append(slug + (f"-{found.count(slug)}" if slug in found else ""))
    return found


@pytest.mark.parametrize("path", PAGES, ids=_id)
def test_links_lead_to_a_file_and_a_heading(path):
    text = re.sub(r"`[^`\n]*`", "code", _FENCE.sub("", _read(path)))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file), target


def test_the_readme_links_to_every_page():
    links = set(re.findall(r"\]\((docs/\w+\.md)\)", _read(REPO / "README.md")))
    assert links == {f"docs/{path.name}" for path in GUIDES}


def test_readme_and_map_are_short():
    assert (REPO / "README.md").stat().st_size <= 12 * 1024
    assert (REPO / "WORKSPACE.md").stat().st_size <= 10 * 1024


@pytest.mark.parametrize("path", [path for path in GUIDES if path.name not in LONG], ids=_id)
def test_a_page_has_2_to_6_kb_and_shows_a_command_at_once(path):
    assert 2 * 1024 <= path.stat().st_size <= 6 * 1024
    assert "\n```" in "\n".join(_read(path).split("\n")[:12])


@pytest.mark.parametrize("path", PAGES, ids=_id)
def test_python_is_python(path):
    for language, code in _FENCE.findall(_read(path)):
        if language == "python":
            ast.parse(code)


def _lines(path):
    """(command lines that stand by themselves, command lines within a sentence) of a page."""
    text = _read(path)
    blocks = [code for language, code in _FENCE.findall(text) if language in ("sh", "bash")]
    rest = _FENCE.sub("", text)
    indented = re.findall(r"^ {4,}((?:python|cct-|\./launch/|source )[^\n]*(?:(?<=\\)\n +[^\n]*)*)", rest, re.M)
    joined = re.sub(r"\\\n\s*", "", "\n".join([*blocks, *indented]))
    inline = re.findall(r"`((?:python (?:-P )?(?:-m |\S+\.py)|cct-\w+ |\./launch/)[^`]*)`", rest.replace("\\|", "|"))
    return [line for line in joined.split("\n") if line.strip()], [line for line in inline
                                                                    if not PLACEHOLDER.search(line)]


class _Called(Exception):
    """What a command gave to `command.run`."""


def _parser(module, monkeypatch):
    """(fields, name of the positional arguments or None) of a command, as it gives them to `command.run`."""
    def stop(main, argv, usage, fields, leave=None, positional=None):
        raise _Called(fields, positional)

    monkeypatch.setattr(command, "run", stop)
    with pytest.raises(_Called) as called:
        module.run()
    return called.value.args


def _check_flags(name, argv, monkeypatch):
    """Raise unless the command of the module cct_tf.NAME takes `argv`."""
    module = importlib.import_module(f"cct_tf.{name}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"cct_tf.{name}.__main__")
    if module is models:
        for variant in models._parser().parse_args(argv).names:
            variants.resolve(variant)
    elif name == "reference":
        assert not argv
    elif not flags.wants_help(argv):
        fields, positional = _parser(module, monkeypatch)
        given = flags.parse(argv, fields, positional)
        settings = config.from_dict({key: value for key, value in given.items() if key in config.FIELDS})
        if not own_code.is_named(settings.model.model):
            variants.resolve(settings.model.model)


def _check(line, monkeypatch):
    """Raise unless a command line is one that its program takes."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    for mark in (">", "|"):
        words = words[:words.index(mark)] if mark in words else words
    words = [word for word in words if word != "-P"]
    if not words:
        return  # a comment
    program, *rest = words
    if program == "python" and rest[0] == "-m":
        assert rest[1].startswith("cct_tf."), line
        _check_flags(rest[1].removeprefix("cct_tf."), rest[2:], monkeypatch)
    elif program == "python":
        assert (REPO / rest[0]).is_file(), line
    elif program.startswith("cct-"):
        module = SCRIPTS[program].removesuffix(":run").removesuffix(".__main__")
        _check_flags(module.removeprefix("cct_tf."), rest, monkeypatch)
    elif program == "./launch/local.sh":
        _check_flags("train", rest, monkeypatch)
    elif program == "./launch/workers.sh":
        count = next(place for place, word in enumerate(rest) if not word.startswith("--"))
        assert int(rest[count]) > 0
        _check_flags("train", rest[count + 1:], monkeypatch)
    elif program == "./launch/test.sh":
        assert all((REPO / word.partition("::")[0]).exists() for word in rest if word.startswith("tests")), line
    else:
        assert program in OTHER_PROGRAMS, line


@pytest.mark.parametrize("path", PAGES, ids=_id)
def test_commands_have_flags_and_files_that_there_are(path, monkeypatch):
    monkeypatch.chdir(REPO)  # where flagfiles are looked for
    alone, inline = _lines(path)
    for line in [*alone, *inline]:
        with monkeypatch.context() as patch:
            _check(line, patch)


@pytest.mark.parametrize("line", [
    "python -m cct_tf.train --flagfile=configs/none.cfg", "python -m cct_tf.evaluate --workdir=runs/x --tta=flop",
    "cct-train --epoch=3", "./launch/local.sh configs/quickstart.cfg", "python -m cct_tf.models cct_2",
    "./launch/workers.sh 2 --model=cct_2", "python -m cct_tf.train --dataset=npz --crop_padding=2 "
    "--random_resized_crop=0.5,1", "./launch/test.sh tests/none.py", "python tests/none.py", "fly --to=moon"])
def test_a_wrong_command_is_found(line, monkeypatch, capsys):
    monkeypatch.chdir(REPO)
    with pytest.raises((UserError, AssertionError, SystemExit)):
        _check(line, monkeypatch)


def test_the_documents_have_commands_of_every_program():
    lines = "\n".join(line for path in PAGES for line in sum(_lines(path), []))
    for program in SCRIPTS.values():
        assert program.removesuffix(":run").removesuffix(".__main__") in lines


@pytest.mark.parametrize("name", sorted(program.removesuffix(":run").removeprefix("cct_tf.")
                                        for program in SCRIPTS.values()))
def test_help_is_there(name, capfd):
    status, out, err = commands.call(capfd, name, "--help")
    assert (status, err) == (0, "") and out.startswith("usage: python -m cct_tf.")


def test_the_table_of_networks_is_what_the_command_prints(capfd):
    status, out, _ = commands.call(capfd, "models.__main__")
    printed = {row[0]: row[1:] for row in map(str.split, out.splitlines()[1:])}
    table = re.findall(r"^\| `(\w+)`[^|]*\| ([\d,]+) \| (\S+) \| (\S+) \| (\S+) \|$", _read(REPO / "README.md"), re.M)
    assert status == 0 and {row[0]: list(row[1:]) for row in table} == {
        name: row[:4] for name, row in printed.items() if not name.endswith("_sine")}
