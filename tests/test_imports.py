"""Imports go down only: the layers of the house, parsed from the source."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "cct_tf"

# What a part of the package may import from the rest of it, besides its own folder. The order is the way down.
ALLOWED = {
    "errors": (),
    "backend": ("errors",),
    "rng": (),
    "fields": (),
    "config": ("fields", "errors"),
    "plan": ("errors",),
    "compile_cache": ("errors",),
    "runtime": ("backend", "compile_cache", "errors"),
    "workers": ("compile_cache", "config", "leaving", "errors"),
    "tuning": ("models.cost",),
    "flags": ("config", "fields", "errors"),
    "streams": (),
    "leaving": (),
    "command": ("flags", "streams", "errors"),
    "convert": ("models.variants", "layers.sines", "layers.position_grid", "errors"),
    "layers": ("backend", "rng", "errors"),
    "augment": ("rng", "errors"),
    "models": ("layers", "backend", "rng", "errors", "command", "flags", "streams"),
    "data": ("augment", "rng", "config", "plan", "errors"),
    "optim": ("config", "plan", "errors"),
    "checks": ("augment.policies", "convert.names", "data", "models", "optim.freezing", "errors"),
    "training": ("convert", "data", "models", "optim", "augment", "layers", "rng", "plan", "config", "flags", "runtime",
                 "tuning", "workers", "compile_cache", "leaving", "errors"),
    "benchmarks": ("training", "data", "models", "optim", "augment", "layers", "runtime", "errors"),
    "exports": ("training", "data", "augment", "runtime", "errors"),
    "commands": ("benchmarks", "exports", "training", "convert", "data", "models", "checks", "command", "flags",
                 "config", "runtime", "streams", "workers", "compile_cache", "errors"),
}
COMMANDS = ("train", "evaluate", "predict", "compare", "benchmark", "preview", "checkpoints", "convert_torch",
            "export")


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
    """`cct_tf.data.tfds` -> `data`."""
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


def test_only_commands_and_the_work_folder_read_flags():
    readers = {module for path, module in MODULES if any(name.startswith("cct_tf.flags") for name in _imports(path))}
    allowed = {f"cct_tf.{name}" for name in (*COMMANDS, "command", "models.__main__")}
    allowed |= {"cct_tf.training.report", "cct_tf.training.summaries"}  # these write flagfiles and command lines
    allowed |= {"cct_tf.training.runs"}  # this reads the config.cfg of other runs
    assert readers <= allowed


@pytest.mark.parametrize("module", ["cct_tf", "cct_tf.models"])
def test_names_that_load_lazily_are_listed(module):
    code = (f"import sys, {module}\nassert {{'create_model', 'list_models', '__doc__'}} <= set(dir({module}))\n"
            "assert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_what_judges_first_imports_without_tensorflow():
    light = ["config", "flags", "plan", "errors", "command", "checks", "models", "models.variants", "models.cost",
             "augment", "augment.policies", "data.registry", "data.tree", "data.npz", "data.listing", "optim.schedules",
             "training.workdir", "training.resume", "training.checkpoint", "training.console", "training.interrupts",
             "training.standing", "training.divergence", "training.profiling", "training.memory", "training.inventory",
             "training.runs", "training.plots", "training.metrics", "training.calibration", "training.significance",
             "training.evaluation_report", "exports", "exports.formats", "exports.metadata", "exports.running",
             "exports.apart", "compile_cache", "convert", "convert.transfer", "training.initial", "optim.freezing",
             "layers.sines", "layers.position_grid", "train", "evaluate", "predict", "compare", "preview", "benchmark",
             "checkpoints", "convert_torch", "export"]
    code = "import sys\n" + "".join(f"import cct_tf.{name}\n" for name in light)
    code += "sys.exit(' '.join(name for name in ('tensorflow', 'keras', 'sklearn') if name in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
