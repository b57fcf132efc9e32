"""What a person sees while a command runs. stdout: plan, progress, results; stderr: warnings."""

import contextlib
import importlib.util
import math
import sys
import time


def duration(seconds):
    """`42s`, `3m05s`, `2h10m`."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def listed(names, most=10):
    """Names in a row, the first few of many."""
    return ", ".join(names[:most]) + (f" ... ({len(names) - most} more)" if len(names) > most else "")


def shortened(name, letters):
    """A name of at most so many letters, its middle left out: names that begin alike often end differently."""
    if len(name) <= letters:
        return name
    head = (letters - 1) // 2
    return f"{name[:head]}…{name[len(name) - (letters - 1 - head):]}"


def _is_notebook():
    """Whether the output appears in a notebook, as far as IPython tells."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


def _bar(is_notebook):
    """tqdm's progress bar: in a notebook the one that is drawn, if ipywidgets is there; else the one of letters."""
    if is_notebook and importlib.util.find_spec("ipywidgets"):
        import tqdm.notebook
        return tqdm.notebook.tqdm
    import tqdm
    return tqdm.tqdm


class Console:
    """Lines for a person.

    Args:
        quiet: bool, say nothing on stdout (a command with --json keeps it for the object).
    """

    def __init__(self, quiet=False):
        self.quiet = quiet
        self.is_terminal = sys.stdout.isatty() and not quiet
        self.is_notebook = _is_notebook() and not quiet
        # For progress bars of others; without a terminal a phase's own line is enough.
        self.stream = sys.stdout if self.is_terminal else None
        self.phases = {}  # name -> seconds, in the order they happened

    def say(self, text=""):
        if not self.quiet:
            print(text, flush=True)

    def warn(self, text):
        print(f"warning: {' '.join(text.split())}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def phase(self, text, with_progress=False):
        """Say what is being waited for while it is, and how long it took when it is done.

        Args:
            text: what is being done.
            with_progress: True if a progress bar may appear on `stream` in between.
        """
        own_lines = with_progress and self.stream is not None
        if not self.quiet:
            print(f"{text} ...", end="\n" if own_lines else "", flush=True)
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            if not own_lines:
                self.say()
            raise
        self.phases[text] = time.perf_counter() - start
        self.say(f"{text if own_lines else ''} {self.phases[text]:.1f} s")


class Progress:
    """Progress of the training: a bar on a terminal and in a notebook, plain lines otherwise.

    Args:
        console: Console.
        plan: `plan.Plan`.
        start_step: int, where this process begins.
    """

    _SECONDS_BETWEEN_LINES = 2.0

    def __init__(self, console, plan, start_step):
        self._console = console
        self._plan = plan
        self._bar = None
        self._last_line = 0.0
        self._start = (start_step, time.perf_counter())

    def advance(self, step):
        """Move to `step` completed steps. The bar appears with the first of them, after the lines on compiling."""
        if self._bar is None and (self._console.is_terminal or self._console.is_notebook):
            make = _bar(self._console.is_notebook)
            self._bar = make(total=self._plan.total_steps, initial=step, unit="step", dynamic_ncols=True,
                             smoothing=0.1, file=sys.stdout)
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def show(self, step, values):
        """Show the values of a log record at `step`."""
        text = f"loss {values['train/loss']:.4f}  accuracy {100 * values['train/accuracy']:.1f}%"
        if math.isfinite(values["timing/images_per_second"]):
            text += f"  {values['timing/images_per_second']:,.0f} images/s"
        if values["train/skipped_updates"]:
            text += f"  {values['train/skipped_updates']} updates skipped"
        if self._bar is not None:
            self._bar.set_postfix_str(text.replace("  ", ", "))
            return
        now = time.perf_counter()
        if now - self._last_line < self._SECONDS_BETWEEN_LINES and step < self._plan.total_steps:
            return
        self._last_line = now
        first_step, since = self._start
        left = (self._plan.total_steps - step) * (now - since) / max(step - first_step, 1)
        self._console.say(f"step {step}/{self._plan.total_steps}  epoch {float(self._plan.epoch_of(step)):.2f}  {text}"
                          f"  {duration(left)} left")

    def say(self, text):
        """A line that does not break the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            self._console.say(text)

    def close(self):
        if self._bar is not None:
            self._bar.close()
