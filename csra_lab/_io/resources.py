"""Files beside the code: `csra_lab/assets`, which an installed package has, and `data/`, which the repository has."""

import importlib.metadata
import importlib.resources
import os
import tarfile
import urllib.request
from pathlib import Path

from csra_lab._io.atomic_write import atomic_write
from csra_lab._io.cache import cache_folder, only_one
from csra_lab._io.provenance import PACKAGE, lab_version
from csra_lab.errors import DownloadError, MissingFile


def asset(name: str = "") -> Path:
    """A file or folder of `csra_lab/assets`.

    Args:
        name: path below the folder, as "tables/voc2007_classes.csv"; the folder itself if left out.

    Raises:
        MissingFile: it is not there, so the installation is not whole.
    """
    path = Path(str(importlib.resources.files("csra_lab"))) / "assets" / name
    if not path.exists():
        raise MissingFile(f"{path} is not there; install csra-lab again, since this file comes with it.")
    return path


def recorded(name: str = "") -> Path:
    """A recorded run or a published number: a file or folder of the repository's `data/`.

    In a checkout it is read where it lies: beside the package, or in a folder above the working directory. Elsewhere,
    as in a downloaded notebook, the `data/` of the installed version is fetched once, into the cache.

    Args:
        name: path below `data/`, as "runs/four-lines"; the folder itself if left out.

    Raises:
        MissingFile: there is no such record, or no repository is known to fetch it from.
        DownloadError: the repository could not be reached.
    """
    root = _data_at_hand()
    if root is None:
        root = _fetched_data()
    path = root / name
    if not path.exists():
        raise MissingFile(f"{path} is not there; data/README.md of the repository says which records there are.")
    return path


def repository() -> str:
    """The address of the repository, from `project.urls` of pyproject.toml; "" where none is set.

    CSRA_LAB_REPOSITORY names another, such as the copy of a classroom: `http:` or `file:`.
    """
    if "CSRA_LAB_REPOSITORY" in os.environ:
        return os.environ["CSRA_LAB_REPOSITORY"].rstrip("/").removesuffix(".git")
    try:
        urls = importlib.metadata.metadata("csra-lab").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    named = dict(url.split(", ", 1) for url in urls)
    return named.get("Repository", "").rstrip("/").removesuffix(".git")


def _data_at_hand() -> Path | None:
    """`data/` of a checkout: the one that holds this package, else the nearest above the working directory."""
    here = Path.cwd()
    for root in (PACKAGE.parent, here, *here.parents):
        if (root / "data" / "runs").is_dir() and (root / "csra_lab" / "__init__.py").is_file():
            # As seen from here, where that is shorter: a path of this machine has no place in what a chapter shows.
            return Path(os.path.relpath(root / "data", here)) if here.is_relative_to(root) else root / "data"
    return None


def _fetched_data() -> Path:
    """`data/` of the version that is installed, in the cache."""
    version, url = lab_version(), repository()
    folder = cache_folder() / f"data-{version}"
    with only_one(folder) as first:
        if not first:
            return folder
        if not url:
            raise MissingFile(
                "recorded runs lie in the folder data/ of csra-lab's repository, and this installation does not know "
                "its address; start Python inside a copy of the repository, or set CSRA_LAB_REPOSITORY to it."
            )
        tag = f"v{version}"
        archive = f"/-/archive/{tag}/data.tar.gz" if "gitlab" in url else f"/archive/refs/tags/{tag}.tar.gz"
        with atomic_write(folder) as fresh:
            _extract_data(url + archive, fresh)
    return folder


def _extract_data(address: str, folder: Path) -> None:
    """Write what lies in `data/` of the repository's archive at `address` into `folder`."""
    folder.mkdir()
    try:
        with urllib.request.urlopen(address, timeout=30) as answer, tarfile.open(fileobj=answer, mode="r|gz") as pack:
            for member in pack:
                _, _, below = member.name.partition("/")
                if below.startswith("data/"):
                    member.name = below.removeprefix("data/")
                    pack.extract(member, folder, filter="data")
    except (OSError, EOFError, tarfile.TarError) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(
            f"the recorded runs could not be fetched from {address} ({reason}); start Python inside a copy of the "
            "repository, or try again."
        ) from error
    if not any(folder.iterdir()):
        raise MissingFile(f"{address} holds no folder data/; start Python inside a copy of the repository.")
