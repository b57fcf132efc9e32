"""TF_CONFIG of this process, derived from what Slurm or Kubernetes put into its environment.

    python launch/tf_config.py                     prints it
    python launch/tf_config.py COMMAND [ARG ...]   becomes COMMAND, with TF_CONFIG set

Slurm (in a step of one task a node, as launch/slurm.sh starts it):
    SLURM_STEP_NODELIST    gpu[01-03,07],login2: the workers' machines, in the order of their numbers
    SLURM_NODEID           this one's number
    SLURM_STEP_NUM_TASKS   as many as there are machines
    SLURM_JOB_ID           the port follows from it, so that jobs sharing a machine have different ones
    CCT_PORT               the port, should that one not do

Kubernetes (an Indexed Job with a headless service, as in launch/kubernetes.yaml):
    JOB_COMPLETION_INDEX   this worker's number; set by Kubernetes, the rest by the manifest
    CCT_WORKERS            how many workers: the job's completions
    CCT_JOB                name of the job
    CCT_SERVICE            name of the headless service, which is the pods' subdomain
    CCT_PORT               the port

Standard library only. Wrong or missing variables are one line, status 2.
"""

import itertools
import json
import os
import re
import sys

# Below the ports that Linux gives to outgoing connections, and not below 1024.
_FIRST_PORT, _PORTS = 20000, 10000
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"  # a name in the DNS


class WrongEnvironment(Exception):
    """The message is one line: the variable, what was expected, what was found."""


def _text(environment, *names):
    """Value of the first of these variables that is there."""
    for name in names:
        if environment.get(name):
            return environment[name]
    raise WrongEnvironment(f"{names[0]}: expected to be set, found nothing")


def _number(environment, *names, minimum, below):
    text = _text(environment, *names)
    if not text.isdecimal() or not minimum <= int(text) < below:
        name = next(name for name in names if environment.get(name))
        raise WrongEnvironment(f"{name}: expected a whole number from {minimum} to {below - 1}, found {text!r}")
    return int(text)


def expand_nodes(text):
    """Names of a Slurm node list: `gpu[01-03,07],login2` -> gpu01 gpu02 gpu03 gpu07 login2.

    Raises:
        WrongEnvironment: it is none.
    """
    nodes = []
    for group in re.findall(r"(?:[^,\[\]]|\[[^\[\]]*\])+|[,\[\]]", text):
        if group == ",":
            continue
        pieces = re.split(r"\[([^\]]*)\]", group)  # text and what was in brackets, in turn
        choices = [_ranges(piece, text) if number % 2 else [piece] for number, piece in enumerate(pieces)]
        nodes += map("".join, itertools.product(*choices))
    if not nodes or not all(re.fullmatch(r"[\w.-]+", node) for node in nodes) or ",," in f",{text},":
        raise WrongEnvironment(f"SLURM_STEP_NODELIST: expected a list like gpu[01-03,07],login2, found {text!r}")
    if len(set(nodes)) < len(nodes):
        raise WrongEnvironment(f"SLURM_STEP_NODELIST: expected different machines, found {text!r}")
    return nodes


def _ranges(text, whole):
    """`01-03,07` -> 01 02 03 07."""
    numbers = []
    for piece in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", piece)
        first, last = (match[1], match[2] or match[1]) if match else ("1", "0")
        if int(last) < int(first):
            raise WrongEnvironment(f"SLURM_STEP_NODELIST: expected ranges like [01-03,07], found {whole!r}")
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return numbers


def _port(environment, default=None):
    if default is not None and not environment.get("CCT_PORT"):
        return default
    return _number(environment, "CCT_PORT", minimum=1024, below=65536)


def from_slurm(environment):
    """(hosts, index, port) of a Slurm task."""
    hosts = expand_nodes(_text(environment, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"))
    tasks = _number(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", minimum=1, below=10**6)
    if tasks != len(hosts):
        raise WrongEnvironment(f"SLURM_STEP_NUM_TASKS: expected one task on each of {len(hosts)} machines "
                               f"(--ntasks-per-node=1), found {tasks} tasks")
    index = _number(environment, "SLURM_NODEID", "SLURM_PROCID", minimum=0, below=len(hosts))
    job = _number(environment, "SLURM_JOB_ID", minimum=0, below=2**32)
    return hosts, index, _port(environment, _FIRST_PORT + job % _PORTS)


def from_kubernetes(environment):
    """(hosts, index, port) of a pod of an Indexed Job."""
    count = _number(environment, "CCT_WORKERS", minimum=1, below=10**5)
    index = _number(environment, "JOB_COMPLETION_INDEX", minimum=0, below=count)
    names = {}
    for name in ("CCT_JOB", "CCT_SERVICE"):
        names[name] = _text(environment, name)
        if not re.fullmatch(_LABEL, names[name]):
            raise WrongEnvironment(f"{name}: expected a name of lower-case letters, digits and '-', "
                                   f"found {names[name]!r}")
    hosts = [f"{names['CCT_JOB']}-{number}.{names['CCT_SERVICE']}" for number in range(count)]
    return hosts, index, _port(environment)


def derive(environment):
    """TF_CONFIG as text, from a dict of environment variables. Raises WrongEnvironment."""
    if "JOB_COMPLETION_INDEX" in environment:
        hosts, index, port = from_kubernetes(environment)
    elif "SLURM_JOB_ID" in environment:
        hosts, index, port = from_slurm(environment)
    else:
        raise WrongEnvironment("JOB_COMPLETION_INDEX or SLURM_JOB_ID: expected one of them (an Indexed Job of "
                               "Kubernetes, a step of Slurm), found neither")
    return json.dumps({"cluster": {"worker": [f"{host}:{port}" for host in hosts]},
                       "task": {"type": "worker", "index": index}})


def main(argv):
    """Print TF_CONFIG, or become the command `argv`; returns an exit status."""
    if argv[:1] in (["-h"], ["--help"]):
        print(__doc__.rstrip())
        return 0
    try:
        text = derive(os.environ)
        if argv and argv[0].startswith("-"):
            raise WrongEnvironment(f"tf_config.py: expected a command or nothing, found {argv[0]!r}")
    except WrongEnvironment as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not argv:
        print(text)
        return 0
    os.environ["TF_CONFIG"] = text
    try:
        os.execvp(argv[0], argv)  # signals reach the command, and its status is ours
    except OSError as error:
        print(f"error: {argv[0]}: expected a command that can be run, found {error.strerror}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
