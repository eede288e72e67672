"""The command `csra-lab`: train, evaluate, predict, runs, four-lines, ablate, grid, models, export, data, completion.

Every error of the reader's is one sentence on standard error and exit code 2. A command's module is imported when the
command is given, so that help, the version and a mistyped command need neither torch nor tyro.
"""

import importlib
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from csra_lab._io.notice import notices_as_lines
from csra_lab._io.validation import printable
from csra_lab.errors import ConfigError, CsraError


@dataclass(frozen=True)
class Command:
    """A command by name, and where it is defined.

    Args:
        usage: what follows `csra-lab` in the help.
        summary: one line of help.
        module: of `csra_lab.cli`.
        function: takes the command's arguments as texts if it begins with `run_`; else tyro reads its signature.
    """

    usage: str
    summary: str
    module: str
    function: str

    def load(self) -> Callable:
        return getattr(importlib.import_module(f"csra_lab.cli.{self.module}"), self.function)


COMMANDS = {
    "train": Command("train RECIPE", "train a classifier and measure it on the test split", "train", "run_train"),
    "evaluate": Command("evaluate RUN", "measure a trained classifier on a split", "train", "evaluate_command"),
    "predict": Command(
        "predict [RUN] IMAGE ...", "name what is in images; with --attention, show where", "predict", "predict_command"
    ),
    "runs": Command("runs COMMAND", "list DIR, compare A B, or report RUN: what runs gave", "runs", "run_runs"),
    "four-lines": Command(
        "four-lines MODEL FOLDER",
        "lambda on an ImageNet classifier, with no training",
        "experiments",
        "four_lines_command",
    ),
    "ablate": Command(
        "ablate PLAN", "train many heads on cached features, and say which differences are real", "experiments",
        "run_ablate",
    ),
    "grid": Command(
        "grid [NAME]", "fill the table of backbones, data sets and heads, run by run", "grid", "grid_command"
    ),
    "models": Command(
        "models", "parameters and multiply-adds of the published models", "models", "models_command"
    ),
    "export": Command(
        "export RUN FILE",
        "write a trained classifier for other runtimes, as FILE.onnx or FILE.pt2",
        "models",
        "export_command",
    ),
    "data": Command("data COMMAND", "download NAME, prepare NAME, or check FOLDER: data sets", "data", "run_data"),
    "completion": Command(
        "completion SHELL", "print a script that completes commands in bash, zsh or tcsh", "completion",
        "completion_command",
    ),
}  # fmt: skip

LISTINGS = ("runs", "models", "completion")
"""Commands that only print: who closes the pipe, as `head` does, has all that was wanted."""
RESUMED = ("train", "grid")
"""Commands that keep each whole epoch, and go on after it."""
CLOSED_PIPE = 128 + 13
"""How a process ends that writes into a closed pipe: by the signal SIGPIPE, as a shell counts it."""
ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""By which schedulers, containers and a closed terminal end a process."""

HELP = "\n".join([
    "usage: csra-lab [--version] [--traceback] COMMAND ...",
    "",
    *(f"  {command.usage:24}  {command.summary}" for command in COMMANDS.values()),
    "",
    "csra-lab COMMAND --help tells more. --traceback (or CSRA_LAB_DEBUG=1) shows what led to an error.",
    'Completion in bash: eval "$(csra-lab completion bash)"',
])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the process ends with 0, with 2 after bad input, with 130 after Ctrl-C, with 141 where a
    closed pipe stopped its work, and with 128 and the number of a signal that asked it to end."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = bool(os.environ.get("CSRA_LAB_DEBUG"))
    if arguments[:1] == ["--traceback"]:
        debug, arguments = True, arguments[1:]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name need not be text
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"csra-lab {sys.modules['csra_lab'].__version__}")
        sys.exit(0)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        sys.exit(0 if arguments else 2)
    only_prints = arguments[0] in LISTINGS or {"-h", "--help", "--list"} & set(arguments)
    goes_on, closed_pipe = arguments[0] in RESUMED, 0 if only_prints else CLOSED_PIPE
    sentences = errors_in_one_sentence(debug=debug, goes_on=goes_on, closed_pipe=closed_pipe)
    with sentences, asked_to_end_like_ctrl_c(), notices_as_lines():
        command = load_command(arguments[0])
        command(arguments[1:])


class AskedToEnd(KeyboardInterrupt):
    """One of `ENDING`; its number is the first argument."""


@contextmanager
def asked_to_end_like_ctrl_c() -> Iterator[None]:
    """Clean up after SIGTERM and SIGHUP as after Ctrl-C; by themselves they leave files half written.

    One that means something else already, as under `nohup`, stays so; and all do outside the main thread.
    """

    def end(number, frame):
        raise AskedToEnd(number)

    mine = [number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        mine = []
    try:
        for number in mine:
            signal.signal(number, end)
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def load_command(name: str) -> Callable[[list[str]], object]:
    """What runs a command, given the arguments that follow its name.

    Raises:
        ConfigError: there is no such command; the nearest is named.
    """
    if name not in COMMANDS:
        near = nearest(name, COMMANDS)
        raise ConfigError(f"there is no command {name!r}{near}; the commands are {', '.join(COMMANDS)}.")
    function = COMMANDS[name].load()
    if function.__name__.startswith("run_"):
        return function
    import tyro  # needed only here, and it takes as long as all else of `--help`

    return lambda arguments: tyro.cli(function, args=arguments, prog=f"csra-lab {name}")


@contextmanager
def errors_in_one_sentence(*, debug: bool, goes_on: bool = False, closed_pipe: int = CLOSED_PIPE) -> Iterator[None]:
    """End the process with one sentence on standard error where the reader can mend what is wrong.

    Args:
        debug: also show what led to the error. goes_on: the command keeps each whole epoch, and goes on after it.
        closed_pipe: exit code where the reader of a pipe has gone.
    """
    try:
        yield
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        sys.stdout = None
        sys.exit(closed_pipe)
    except KeyboardInterrupt as stop:
        print("\nstopped" + "; the same command goes on from the last whole epoch" * goes_on + ".", file=sys.stderr)
        sys.exit(128 + (stop.args[0] if isinstance(stop, AskedToEnd) else signal.SIGINT))
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        if debug:
            traceback.print_exception(error)
        _fail(sentence)


def nearest(name: str, names: Iterable[str]) -> str:
    """ ", did you mean NAME" for a mistyped name, or nothing."""
    import difflib

    near = difflib.get_close_matches(name, names, n=1)
    return f", did you mean {near[0]}" if near else ""


def run_group(group: str, commands: Mapping[str, Callable], usages: Iterable[str], arguments: list[str]) -> None:
    """Run one of a group's commands, such as `data check`; without arguments, or for help, say which there are.

    Args:
        commands: name -> the function that tyro reads. usages: a line each, without `csra-lab GROUP`.

    Raises:
        CsraError: a name that is no command of the group.
    """
    import tyro

    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: " + "\n       ".join(f"csra-lab {group} {usage}" for usage in usages))
        sys.exit(0 if arguments else 2)
    name = arguments[0]
    if name not in commands:
        near = nearest(name, commands)
        raise ConfigError(f"there is no command '{group} {name}'{near}; there are {', '.join(commands)}.")
    tyro.cli(commands[name], args=arguments[1:], prog=f"csra-lab {group} {name}")


def _sentence(error: Exception) -> str | None:
    """What a reader is told of an error, or None for a fault of the lab's own."""
    device = sys.modules.get("csra_lab.device")  # not imported: no memory of a network is full then
    if isinstance(error, CsraError):
        return str(error)
    if isinstance(error, MemoryError):
        return "the memory is full; lower --batch-size or --image-size."
    if device is not None and device.is_memory_error(error):
        return "the memory is full; lower --batch-size or --image-size, or in training raise --accumulate."
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'} could not be read or written ({error.strerror or error})."
    return None


def _fail(sentence: str) -> None:
    print(f"csra-lab: {printable(sentence, keep=chr(10))}", file=sys.stderr)
    sys.exit(2)
