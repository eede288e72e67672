"""The one error a reader of this lab should ever see."""


class LabError(ValueError):
    """Bad input, said in one sentence that names the file or value and what to do about it.

    The command line prints the sentence and exits with code 2; nothing has been overwritten.
    """
