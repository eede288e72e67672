"""The one error a reader of this lab should ever see."""


class CsraError(ValueError):
    """Bad input, said in one sentence that names the file or value and what to do about it.

    The command line prints the sentence and exits with code 2; nothing has been overwritten.
    """

    def __init__(self, sentence: str):
        # A process that reads pictures for torch's DataLoader hands its error over inside a whole traceback.
        super().__init__(sentence.rpartition(f"{__name__}.CsraError: ")[2].rstrip("\n"))
