"""The errors a reader of this lab should ever see, by kind."""

import re


class CsraError(ValueError):
    """Bad input: one sentence that names the file or value and what to do about it.

    The command line prints the sentence and exits with code 2; nothing has been overwritten. What led to it is its
    `__cause__`, which `csra-lab --traceback COMMAND` (or CSRA_LAB_DEBUG=1) shows.
    """

    def __init__(self, sentence: str):
        # A process that reads images for torch's DataLoader hands its error over inside a whole traceback, which ends
        # with the error's full name and its sentence.
        super().__init__(re.split(rf"^{__name__}\.\w+: ", sentence, flags=re.MULTILINE)[-1].rstrip("\n"))


class DataError(CsraError):
    """A file was read and is not what it should be: damaged, of another format, or with impossible values."""


class ConfigError(CsraError):
    """An option, argument or recipe field has a value that it cannot have, or that would do nothing."""


class MissingFile(CsraError):
    """A file or folder is not where it was looked for."""


class DownloadError(CsraError):
    """Something could not be fetched from the network."""
