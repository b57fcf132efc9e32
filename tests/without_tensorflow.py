"""Run commands one after the other in this process, in which TensorFlow and Keras cannot be imported.

stdin: JSON list of {"module", "argv", "env", "as_nobody"}; stdout: JSON list of {"status", "out", "err", "seconds"}.
A command that tries to import TensorFlow gets the status "imported tensorflow".
"""

import contextlib
import importlib
import importlib.machinery
import io
import json
import os
import sys
import time

_NOBODY = 65534


class _Barrier:
    """A meta-path finder that lets neither TensorFlow nor Keras in; asking whether they are there is no import."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name in ("tensorflow", "keras") else None

    def create_module(self, spec):
        raise SystemExit(f"imported {spec.name}")

    def exec_module(self, module):
        """Never reached."""


def _run(case):
    module = importlib.import_module(case["module"])
    if hasattr(module, "__path__"):  # a package: what `python -m` runs
        module = importlib.import_module(f"{case['module']}.__main__")
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [case["module"], *case["argv"]]
    began = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            module.run()
            status = 0
        except SystemExit as stopped:
            status = stopped.code
        except Exception as error:  # a traceback, had it been a process of its own
            status = f"raised {error!r}"
    return {"status": status, "out": out.getvalue(), "err": err.getvalue(), "seconds": time.process_time() - began}


def main():
    cases = json.load(sys.stdin)
    sys.meta_path.insert(0, _Barrier())
    environment, results = dict(os.environ), []
    for case in cases:
        os.environ.clear()
        os.environ.update(environment | case["env"])
        if case["as_nobody"]:
            os.seteuid(_NOBODY)
        results.append(_run(case))
        if case["as_nobody"]:
            os.seteuid(0)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
