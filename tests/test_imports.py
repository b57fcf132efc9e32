"""Imports go down only: the layers of the house, parsed from the source."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "cct_tf"

# What a part of the package may import from the rest of it, besides its own folder. The order is the way down.
ALLOWED = {
    "errors": (),
    "rng": (),
    "sizes": (),
    "sites": (),
    "machine": ("errors",),
    "settings": ("machine", "sizes", "errors"),
    "workers": ("settings", "machine", "errors"),
    "layers": ("machine.backend", "machine.processor", "machine.compile_cache", "rng", "errors"),
    "policies": ("images.pixel_type", "rng", "sites", "sizes", "errors"),
    "augment": ("policies", "images.pixel_type", "machine.python_calls", "rng", "sites", "sizes", "errors"),
    "models": ("layers", "settings.command", "settings.flags", "machine", "rng", "sizes", "errors"),
    "convert": ("models.variants", "layers.sines", "layers.position_grid", "errors"),
    "images": ("machine.python_calls", "machine.files", "errors"),
    "readers": ("images", "machine", "rng", "errors"),
    "data": ("readers", "images", "augment", "settings", "machine.files", "rng", "sizes", "errors"),
    "tables": ("machine.files", "errors"),
    "datasets": ("tables", "data", "readers", "images", "settings", "machine.own_code", "machine.files", "errors"),
    "optim": ("settings", "errors"),
    "engine": ("layers", "sizes", "errors"),
    "runs": ("settings", "images.pixel_type", "sizes", "errors"),
    "pictures": ("runs", "data", "readers", "images", "models", "augment", "policies", "settings.measure", "machine",
                 "rng"),
    "inspection": ("data", "readers", "images"),
    "assembly": ("runs", "engine", "optim", "datasets", "data", "readers", "images", "augment", "policies", "models",
                 "layers.products", "convert", "workers", "settings", "machine", "sizes", "errors"),
    "evaluation": ("assembly", "pictures", "engine", "datasets", "data", "readers", "images", "augment", "policies",
                   "models", "workers", "settings.averages", "machine", "sizes", "errors"),
    "training": ("evaluation", "assembly", "pictures", "runs", "engine", "optim", "datasets", "data", "readers",
                 "images", "augment", "policies", "models", "workers", "settings", "machine", "sizes", "errors"),
    "export": ("evaluation", "assembly", "runs", "datasets", "data", "readers", "images", "augment", "policies",
               "settings", "machine", "sizes", "errors"),
    "benchmark": ("training", "evaluation", "assembly", "runs", "engine", "data", "readers", "images", "augment",
                  "policies", "models", "layers", "settings", "machine", "sizes", "errors"),
    "sweep": ("training", "benchmark.machine", "assembly", "pictures", "runs", "optim", "workers", "settings",
              "machine", "errors"),
    "commands": ("inspection", "export", "training", "evaluation", "assembly", "pictures", "runs", "datasets",
                 "augment", "policies", "models", "convert", "workers", "settings", "machine", "sizes", "errors"),
    "api": ("train", "evaluate", "evaluation", "assembly", "runs", "datasets", "images.pixel_type", "workers",
            "settings", "machine", "errors"),
    "reference": ("train", "evaluate", "predict", "compare", "preview", "tabulate", "inspect_data", "checkpoints",
                  "convert_torch", "export", "benchmark", "sweep", "models", "settings"),
}
COMMANDS = ("train", "evaluate", "predict", "compare", "preview", "checkpoints", "tabulate", "convert_torch",
            "inspect_data")


def _all_modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = list(_all_modules())


def _imports(path):
    """Dotted names that a file imports; `from a import b` gives a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def _part(module):
    """`cct_tf.datasets.tfds` -> `datasets`."""
    pieces = module.split(".")
    if len(pieces) == 1:
        return None
    return "commands" if pieces[1] in COMMANDS else pieces[1]


@pytest.mark.parametrize(("path", "module"), MODULES, ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_down_only(path, module):
    part = _part(module)
    for name in _imports(path):
        if not name.startswith("cct_tf.") or part is None:
            continue
        target = name.removeprefix("cct_tf.")
        inside = target.split(".")[0] == part or target in ("__version__",)
        allowed = any(target == rule or target.startswith(rule + ".") for rule in ALLOWED[part])
        assert inside or allowed, f"{module} imports {name}"


@pytest.mark.parametrize(("path", "module"), MODULES, ids=lambda value: value if isinstance(value, str) else "")
def test_nothing_imports_torch_or_tf_keras(path, module):
    for name in _imports(path):
        assert name.split(".")[0] != "torch" and not name.startswith("tensorflow.keras")
    assert "tf.keras." not in path.read_text(encoding="utf-8")


def test_layers_and_augment_do_not_know_of_distribution():
    for folder in ("layers", "augment", "models"):
        for path in (PACKAGE / folder).glob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            assert "distribute" not in used, path


def test_nobody_outside_asks_for_a_readers_class():
    for path, module in MODULES:
        text = path.read_text(encoding="utf-8")
        for name in ("Reader", "Held", "Flat", "Encoded", "ArrayRecords", "Windowed"):
            assert not re.search(rf"isinstance\([^)]*\b{name}\b|type\([^)]*\) (is|==) \w*\b{name}\b", text), module


def test_only_these_modules_read_flags():
    readers = {module for path, module in MODULES
               if any(name.startswith("cct_tf.settings.flags") for name in _imports(path))}
    allowed = {f"cct_tf.{name}" for name in COMMANDS}
    allowed |= {f"cct_tf.{room}.__main__" for room in ("models", "benchmark", "export", "sweep")}
    allowed |= {"cct_tf.settings.command"}
    allowed |= {"cct_tf.settings.calls"}  # keyword arguments and flagfiles of a call from Python
    allowed |= {"cct_tf.training.report", "cct_tf.training.summaries"}  # these write flagfiles and command lines
    allowed |= {"cct_tf.sweep.space", "cct_tf.sweep.best_config"}  # ranges in a flagfile; the winner as one
    allowed |= {"cct_tf.runs.side_by_side"}  # this reads the config.cfg of other runs
    assert readers <= allowed


def test_no_room_is_too_large_to_find_ones_way_in():
    for room in {path.parent for path, _ in MODULES} - {PACKAGE}:
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in room.glob("*.py"))
        assert lines <= 2500, (room, lines)
    assert len(list((PACKAGE / "training").glob("[!_]*.py"))) <= 14


@pytest.mark.parametrize("module", ["cct_tf", "cct_tf.models"])
def test_names_that_load_lazily_are_listed(module):
    code = (f"import sys, {module}\nassert {{'create_model', 'list_models', '__doc__'}} <= set(dir({module}))\n"
            "assert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_what_judges_first_imports_without_tensorflow():
    light = ["settings", "settings.config", "settings.flags", "settings.plan", "settings.command", "errors",
             "assembly.checks", "assembly.initial_weights", "assembly.selection", "models", "models.variants",
             "models.cost", "layers.spec", "augment", "policies.notation",
             "datasets.registry", "datasets.tree", "datasets.image_files", "datasets.table", "datasets.npz",
             "datasets.listing", "data.folds", "data.twins", "optim.schedules", "optim.freezing", "runs.workdir",
             "runs.checkpoint", "runs.run_status", "runs.inventory",
             "runs.side_by_side", "machine.console", "machine.interrupts", "machine.memory", "machine.compile_cache",
             "training.resume", "training.divergence", "training.profiling", "pictures.plots", "evaluation.metrics",
             "evaluation.calibration", "evaluation.multilabel", "evaluation.drawing", "evaluation.significance",
             "evaluation.report", "export", "export.formats",
             "runs.export_metadata", "export.running", "export.isolated", "export.__main__", "benchmark.__main__",
             "sweep.__main__", "sweep.search", "sweep.study",
             "convert", "convert.transfer", "layers.sines", "layers.position_grid", "api", "reference", *COMMANDS]
    code = "import sys\n" + "".join(f"import cct_tf.{name}\n" for name in light)
    code += "sys.exit(' '.join(name for name in ('tensorflow', 'keras', 'sklearn') if name in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
