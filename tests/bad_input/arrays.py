"""Checkpoints and score files that are damaged, hostile, or of another model. Each case writes its own file."""

import functools
import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import timm
import torch
from safetensors.torch import save, save_file

from tests.bad_input.conftest import Case

TENSORS = {"a.weight": torch.arange(600.0).view(20, 30), "b": torch.ones(3)}


class Harm:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch was_run",)


def torch_file(content, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def repacked(whole: bytes, **changes) -> bytes:
    """A zip with some members replaced (the part of a name behind its last slash), compressed where asked for."""
    file = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if changes.pop("compressed", False) else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(whole)) as before, zipfile.ZipFile(file, "w", kind) as after:
        for info in before.infolist():
            content = changes.get(info.filename.rsplit("/", 1)[-1].replace(".", "_"), before.read(info))
            if content is not None:
                after.writestr(info.filename, content)
    return file.getvalue()


def safetensors_claiming(header: object, body: bytes = bytes(16), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(shape, offsets, dtype="F32"):
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def same(found) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[k], v) for k, v in TENSORS.items())


def checkpoints() -> list[Case]:
    """Cases for `read_state_dict`; the name's ending says the format."""
    whole, legacy = torch_file(TENSORS), torch_file(TENSORS, _use_new_zipfile_serialization=False)
    tensors = save(TENSORS)
    expanded = torch.zeros(1).expand(200_000, 200_000)  # 160 GB that a file holds in four bytes
    sparse = torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (100_000, 100_000))
    contents = {
        "empty": {}, "a list": [torch.ones(2)], "a number": 3, "a string": "weights", "nothing": None,
        "one tensor": torch.ones(3), "no tensor": {"a": 1}, "state dict of nothing": {"state_dict": {}},
        "nested": {"a": {"b": torch.ones(1)}}, "nan": {"a": torch.tensor([float("nan")])},
        "inf": {"a": torch.tensor([float("inf")])}, "half nan": {"a": torch.tensor([float("nan")]).half()},
        "complex nan": {"a": torch.tensor([complex("nan")])}, "expanded": {"a": expanded},
        "no storage": {"a": torch.empty(3, device="meta")}, "sparse": {"a": sparse},
        "quantised": {"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)},
        "harm": {"a": Harm()}, "harm beside": TENSORS | {"args": Harm()}, "a module": torch.nn.Linear(2, 2),
        "an optimiser": torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), "a device": torch.device("cpu"),
        "lambda free class": {"a": np.float64(3)}, "an array": {"a": np.zeros(3)},
    }  # fmt: skip
    cases = [Case(f"{name}.pth", torch_file(content)) for name, content in contents.items()]
    cases += [
        Case(f"{share} of a {kind}", content[: int(share * len(content))])
        for kind, content in (("zip.pth", whole), ("legacy.pth", legacy), ("a.safetensors", tensors))
        for share in (0.001, 0.4, 0.8, 0.99)
    ]
    bomb = torch_file({"a": torch.zeros(25_000_000)})
    cases += [
        Case("compressed.pth", repacked(whole, compressed=True)),
        Case("100 MB in 100 kB.pth", repacked(bomb, compressed=True)),
        Case("no pickle.pth", repacked(whole, data_pkl=None)),
        Case("empty pickle.pth", repacked(whole, data_pkl=b"")),
        Case("harm in the pickle.pth", repacked(whole, data_pkl=pickle.dumps(Harm(), protocol=2))),
        Case("script.pth", repacked(whole, data_pkl=b"cos\nsystem\n(S'touch was_run'\ntR.")),
        Case("missing tensor.pth", repacked(whole, **{"0": None})),
        Case("short tensor.pth", repacked(whole, **{"0": b"abcd"})),
        Case("torchscript.pth", _torchscript()),
        Case("a picture.pth", b"\x89PNG\r\n\x1a\n" + bytes(99)),
        Case("a page.pth", b"<html>404</html>"),
        Case("pointer.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 17\n"),
        Case("zeros.pth", bytes(4000)),
        Case("pickle.pth", pickle.dumps({"a": Harm()}, protocol=4)),
        Case("deep pickle.pth", b"\x80\x02" + b"]" * 50_000 + b"." ),
        Case("keras.h5", b"\x89HDF\r\n\x1a\n" + bytes(99)),
        Case("header of 100 GB.safetensors", safetensors_claiming({}, length=10**11)),
        Case("header of all there is.safetensors", safetensors_claiming({}, length=2**64 - 1)),
        Case("header no json.safetensors", safetensors_claiming(b"{'w': 1}")),
        Case("deep header.safetensors", safetensors_claiming(b"[" * 50_000)),
        Case("tensor of 4 TB.safetensors", safetensors_claiming(entry([10**6, 10**6], [0, 4 * 10**12]))),
        Case("larger than its bytes.safetensors", safetensors_claiming(entry([5], [0, 16]))),
        Case("sides that overflow.safetensors", safetensors_claiming(entry([2**40, 2**40], [0, 16]))),
        Case("negative side.safetensors", safetensors_claiming(entry([-4], [0, 16]))),
        Case("overlapping.safetensors", safetensors_claiming(
            entry([4], [0, 16]) | {"v": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}})),
        Case("backwards.safetensors", safetensors_claiming(entry([4], [16, 0]))),
        Case("unknown type.safetensors", safetensors_claiming(entry([4], [0, 16], "F33"))),
        Case("nan.safetensors", save({"a": torch.tensor([float("nan")])})),
        Case("pickle.safetensors", pickle.dumps({"a": Harm()})),
        Case("torch.safetensors", whole),
        Case("no tensor.safetensors", save({})),
        Case("plain.pth", whole, same),
        Case("plain legacy.pth", legacy, same),
        Case("plain.safetensors", tensors, same),
        Case("wrapped.pth", torch_file({"state_dict": TENSORS, "epoch": 3}), same),
        Case("wrapped twice.pth", torch_file({"state_dict": {"model": TENSORS}}), same),
        Case("parameters.pth", torch_file({k: torch.nn.Parameter(v) for k, v in TENSORS.items()}), same),
        Case("turned.pth", torch_file({"a.weight": TENSORS["a.weight"].T.contiguous().T, "b": TENSORS["b"]}), same),
    ]  # fmt: skip
    return cases


def _torchscript() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), file)
    return file.getvalue()


# ---- checkpoints of other implementations ----------------------------------------------------------------------------


@functools.cache
def network() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = timm.create_model("test_resnet").state_dict()
    return {k: v for k, v in state.items() if not k.startswith("fc.")}


WIDTH = 96
HEAD = "classifier.multi_head.0.head.weight"


def foreign() -> list[Case]:
    """Cases for `from_checkpoint`: test_resnet, three classes."""
    weight = torch.randn(3, WIDTH, 1, 1)
    good = network() | {HEAD: weight}
    linear = network() | {"fc.weight": weight[:, :, 0, 0], "fc.bias": torch.zeros(3)}
    heads = {
        "no dimension": torch.tensor(1.0), "one dimension": torch.ones(3), "two dimensions": None,
        "three dimensions": torch.ones(3, WIDTH, 1), "other width": torch.ones(3, 7, 1, 1),
        "other count": torch.ones(4, WIDTH, 1, 1), "a 3x3 filter": torch.ones(3, WIDTH, 3, 3),
        "no class": torch.ones(0, WIDTH, 1, 1), "integers": torch.ones(3, WIDTH, 1, 1, dtype=torch.int64),
        "complex": torch.ones(3, WIDTH, 1, 1, dtype=torch.complex64),
        "booleans": torch.ones(3, WIDTH, 1, 1, dtype=torch.bool),
    }  # fmt: skip
    del heads["two dimensions"]
    cases = [Case(f"head of {name}", good | {HEAD: head}) for name, head in heads.items()]
    first = "conv1.0.weight" if "conv1.0.weight" in network() else next(k for k in network() if k.endswith("weight"))
    cases += [
        Case("head 1 without head 0", network() | {HEAD.replace("0", "1"): weight}),
        Case("heads of two sizes", good | {HEAD.replace("0", "1"): torch.ones(4, WIDTH, 1, 1)}),
        Case("a million heads", good | {HEAD.replace("0", "1000000"): weight.clone()}),
        Case("three heads, for which there are no temperatures",
             good | {HEAD.replace("0", k): weight.clone() for k in ("1", "2")}),
        Case("no head", network()),
        Case("head only", {HEAD: weight}),
        Case("a layer of another size", good | {first: torch.ones(2, 2)}),
        Case("a layer of integers", good | {first: network()[first].int()}),
        Case("a layer too many", good | {"layer9.weight": torch.ones(1)}),
        Case("bias of another size", linear | {"fc.bias": torch.zeros(4)}),
        Case("bias of one number", linear | {"fc.bias": torch.zeros(1)}),
        Case("bias of two dimensions", linear | {"fc.bias": torch.zeros(3, 1)}),
        Case("a classifier of one dimension", linear | {"fc.weight": torch.zeros(3)}),
        Case("plain", good, callable),
        Case("plain linear", linear, callable),
        Case("in a wrapper of several processes", {f"module.{k}": v for k, v in good.items()}, callable),
    ]  # fmt: skip
    return cases


# ---- score files -----------------------------------------------------------------------------------------------------

SCORES = {
    "logits": np.zeros((2, 3), np.float16), "targets": np.array([[1, 0, -1]] * 2, np.int8),
    "ids": np.array(["a", "b"]), "classes": np.array(["x", "y", "z"]),
}  # fmt: skip


def npz(compressed: bool = True, **arrays) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def npy_claiming(shape: str, descr: str = "'<f2'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + bytes(12)


def score_files() -> list[Case]:
    whole = npz(**SCORES)
    change = lambda **arrays: npz(**(SCORES | arrays))  # noqa: E731
    values = {
        "nan": np.full((2, 3), np.nan), "inf": np.full((2, 3), np.inf),
        "words": np.full((2, 3), "x"), "complex": np.full((2, 3), 1j),
        "another shape": np.full((3, 3), 0.5), "one dimension": np.full(6, 0.5), "nothing": np.zeros((0, 3)),
    }  # fmt: skip
    cases = [Case(f"scores {name}", change(logits=array)) for name, array in values.items()]
    cases += [
        Case("targets 2", change(targets=np.full((2, 3), 2))),
        Case("targets 257", change(targets=np.full((2, 3), 257))),
        Case("targets halves", change(targets=np.full((2, 3), 0.5))),
        Case("targets nan", change(targets=np.full((2, 3), np.nan))),
        Case("targets of another shape", change(targets=np.zeros((2, 4)))),
        Case("an id too few", change(ids=np.array(["a"]))),
        Case("an id twice", change(ids=np.array(["a", "a"]))),
        Case("a class too many", change(classes=np.array(list("wxyz")))),
        Case("a class twice", change(classes=np.array(list("xxy")))),
        Case("objects", change(ids=np.array(["a", {"b": 1}], dtype=object))),
        Case("harm", change(ids=np.array([Harm(), Harm()], dtype=object))),
        *(Case(f"no {key}", npz(**{k: v for k, v in SCORES.items() if k != key})) for key in SCORES),
        *(Case(f"{share} of a file", whole[: int(share * len(whole))]) for share in (0, 0.3, 0.9)),
        Case("20 TB", repacked(whole, logits_npy=npy_claiming("(10000000, 1000000)"))),
        Case("150 MB in 150 kB", repacked(npz(**SCORES, compressed=False), compressed=True,
                                          logits_npy=npy_claiming("(75000000,)")[:-12] + bytes(150_000_000))),
        Case("sides that overflow", repacked(whole, logits_npy=npy_claiming(f"({2**62}, 4)"))),
        Case("code in the header", repacked(whole, logits_npy=npy_claiming("__import__('os').system('touch w')"))),
        Case("an object's type", repacked(whole, logits_npy=npy_claiming("(2, 3)", "'|O'"))),
        Case("no header", repacked(whole, logits_npy=b"")),
        Case("one array", npy_claiming("(2, 3)")),
        Case("pickle", pickle.dumps(Harm())),
        Case("text", b"scores"),
        Case("plain", whole, lambda s: s.ids == ("a", "b") and s.scores.tolist() == [[0.5] * 3] * 2),
        Case("not compressed", npz(compressed=False, **SCORES), lambda s: s.classes == ("x", "y", "z")),
    ]  # fmt: skip
    return cases


def write_state(folder, case) -> "os.PathLike":
    path = folder / "a.safetensors"
    save_file({k: v.contiguous() for k, v in case.content.items()}, path)
    return path
