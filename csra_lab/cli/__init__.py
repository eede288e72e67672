"""The command `csra-lab`: train | evaluate | predict | four-lines | ablate | models | export | data.

Every error of the reader's is one sentence on standard error and exit code 2.
"""

import io
import sys
from collections.abc import Sequence

import torch
import tyro

from csra_lab.cli.data import run_data
from csra_lab.cli.experiments import four_lines_command, run_ablate
from csra_lab.cli.models import export_command, models_command
from csra_lab.cli.predict import predict_command
from csra_lab.cli.train import evaluate_command, run_train
from csra_lab.errors import CsraError

HELP = """usage: csra-lab COMMAND ...

  train RECIPE      train a classifier and measure it on the test split
  evaluate RUN      measure a trained classifier on a split
  predict [RUN] IMAGE ... name what is in photographs; with --attention, show where
  four-lines MODEL FOLDER ...   lambda on an ImageNet classifier, with no training
  ablate PLAN       train many heads on kept features, and say which differences are real
  models            parameters and multiply-adds of the published models
  export RUN FILE   write a trained classifier for other runtimes, as FILE.onnx or FILE.pt2
  data download NAME      fetch a data set
  data prepare NAME       draw an embedded data set: emoji-voc, paperdoll-wider
  data check FOLDER       look for what spoils training on pictures of your own

csra-lab COMMAND --help tells more."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the process ends with 0, with 2 after bad input, or with 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name need not be text
    commands = {
        "train": run_train,
        "evaluate": lambda rest: tyro.cli(evaluate_command, args=rest, prog="csra-lab evaluate"),
        "predict": lambda rest: tyro.cli(predict_command, args=rest, prog="csra-lab predict"),
        "four-lines": lambda rest: tyro.cli(four_lines_command, args=rest, prog="csra-lab four-lines"),
        "models": lambda rest: tyro.cli(models_command, args=rest, prog="csra-lab models"),
        "export": lambda rest: tyro.cli(export_command, args=rest, prog="csra-lab export"),
        "data": run_data,
        "ablate": run_ablate,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        sys.exit(0 if arguments else 2)
    try:
        if arguments[0] not in commands:
            raise CsraError(f"there is no command {arguments[0]!r}; the commands are {', '.join(commands)}.")
        commands[arguments[0]](arguments[1:])
    except CsraError as error:
        _fail(str(error))
    except MemoryError:
        _fail("the memory is full; lower --batch-size or --image-size.")
    except torch.OutOfMemoryError:
        _fail("the GPU's memory is full; lower --batch-size, or raise --accumulate.")
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        sys.stdout = None
        sys.exit(0)
    except OSError as error:
        _fail(f"{error.filename or 'a file'} could not be read or written ({error.strerror or error}).")
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last whole epoch.", file=sys.stderr)
        sys.exit(130)


def _fail(sentence: str) -> None:
    # File names can hold what would steer a terminal.
    shown = "".join(c if c.isprintable() or c in "\n\xa0\u202f\u3000" else repr(c)[1:-1] for c in sentence)
    print(f"csra-lab: {shown}", file=sys.stderr)
    sys.exit(2)
