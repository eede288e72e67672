"""The oldest version that pyproject.toml allows of each package, as constraints for pip, one a line."""

import re
import tomllib
from pathlib import Path


def oldest() -> list[str]:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *(x for extra in project["optional-dependencies"].values() for x in extra)]
    return [re.sub(r"\s*(>=|==)\s*([\w.]+).*", r"==\2", requirement) for requirement in wanted]


if __name__ == "__main__":
    print("\n".join(oldest()))
