"""Weight files that mean harm, are broken, or belong to another model; and a hub that is not there."""

import os
import pickle
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from csra_lab.backbones import create_backbone
from csra_lab.errors import CsraError
from csra_lab.weights import sources as weights
from csra_lab.weights.sources import (
    INSTALLED_WEIGHTS,
    has_installed_weights,
    hub_access,
    installed_state_dict,
    load_state,
    read_state_dict,
)

TENSORS = {"a.weight": torch.arange(600.0).view(20, 30), "a.count": torch.tensor(3)}


def same(found, expected=TENSORS):
    return found.keys() == expected.keys() and all(torch.equal(found[k], v) for k, v in expected.items())


# ---- files that are read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"state_dict": t, "epoch": 3, "optimizer": {"lr": 0.1, "state": {}}},
        lambda t: {"model": t, "best": 0.9},
        lambda t: {"state_dict": {"model": t}},
        lambda t: {**t, "note": "text beside tensors"},
    ],
)
def test_checkpoints_are_unwrapped(tmp_path, wrap, zipped):
    torch.save(wrap(TENSORS), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_state_dict(tmp_path / "a.pth"))
    assert same(read_state_dict(str(tmp_path / "a.pth")))


def test_safetensors_are_read(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    assert same(read_state_dict(tmp_path / "a.safetensors"))


# ---- files that mean harm ----------------------------------------------------------------------------------------


class Harm:
    """Runs a command when it is unpickled, as a prepared checkpoint would."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


HARMFUL = {
    "zip": lambda content, path: torch.save(content, path),
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pickle 0": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=0)),
    "pickle 2": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
    "pickle 5": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=5)),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a.safetensors"])
@pytest.mark.parametrize("how", HARMFUL)
@pytest.mark.parametrize("where", ["value", "beside", "whole"])
def test_code_in_a_file_is_refused_and_never_runs(tmp_path, how, name, where):
    marker = tmp_path / "was_run"
    harm = Harm(marker)
    content = {"value": {"w": harm}, "beside": {"state_dict": TENSORS, "args": harm}, "whole": harm}[where]
    if where == "beside" and how.startswith("pickle"):
        content = {"args": harm}
    HARMFUL[how](content, tmp_path / name)
    with pytest.raises(CsraError, match=name) as caught:
        read_state_dict(tmp_path / name)
    if not name.endswith("safetensors") and how != "pickle 0":  # that one may look like any text
        assert "run their code" in str(caught.value)
        assert ".safetensors" in str(caught.value)  # what to do
    assert not marker.exists()
    pickle.loads(pickle.dumps(harm))  # the trap is armed: unpickled, it does run
    assert marker.exists()


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(CsraError, match=r"a\.pth holds Python objects besides tensors"):
        read_state_dict(tmp_path / "a.pth")


# ---- files that are broken ---------------------------------------------------------------------------------------


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    assert text.endswith(".")
    return text


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_truncated_files(tmp_path, form, share):
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.pth")
    big = {"w": torch.randn(200, 200)}
    save_file(big, path) if form == "safetensors" else torch.save(
        big, path, _use_new_zipfile_serialization=form == "zip"
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CsraError, match="not a whole") as caught:
        read_state_dict(path)
    assert str(path) in one_sentence(caught)


def test_every_place_to_cut_a_legacy_file(tmp_path):
    """Its unpickler fails in many ways, and each is the same to the reader."""
    path = tmp_path / "a.pth"
    torch.save({"w": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(CsraError, match=r"a\.pth"):
            read_state_dict(path)


@pytest.mark.parametrize(
    "content",
    [
        b"hello, this is no checkpoint\n" * 30,
        b"import os",
        b"<!DOCTYPE html><html>404</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 17\n",
        np.random.default_rng(0).bytes(5000),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"PK\x03\x04" + bytes(100),
        bytes(100),
    ],
)
def test_other_files_under_a_weight_files_name(tmp_path, content):
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CsraError, match=f"{name} is not a .*fetch it again") as caught:
            read_state_dict(tmp_path / name)
        one_sentence(caught)


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, {"a": {"b": torch.ones(1)}}, torch.ones(3), 7])
def test_files_without_named_tensors(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CsraError, match=r"a\.pth holds no named tensors"):
        read_state_dict(tmp_path / "a.pth")


def test_missing_files(tmp_path):
    for path in (tmp_path / "no.pth", tmp_path, tmp_path / "no" / "no.safetensors"):
        with pytest.raises(CsraError, match=f"there is no weight file {path}"):
            read_state_dict(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_numbers(tmp_path, value, dtype):
    bad = {"fine": torch.ones(3), "b.weight": torch.tensor([1.0, value], dtype=dtype)}
    torch.save(bad, tmp_path / "a.pth")
    save_file(bad, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        with pytest.raises(CsraError, match=rf"{name} holds NaN or infinite values in 'b\.weight'"):
            read_state_dict(tmp_path / name)


# ---- files of another model --------------------------------------------------------------------------------------


def test_loading_is_by_name_shape_and_nothing_left_over():
    model = nn.Linear(3, 2)
    good = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for state, said in [
        ({"weight": good["weight"]}, "x.pth has no 'bias'"),
        ({}, "x.pth has no 'weight'"),
        (good | {"weight": torch.ones(3, 2)}, r"'weight' in x.pth has shape \(3, 2\) .* needs \(2, 3\)"),
        (good | {"weight": torch.ones(6)}, r"\(6,\)"),
        (good | {"extra": torch.ones(1), "more": torch.ones(1)}, r"x.pth also holds 'extra' \(2 such\)"),
    ]:
        with pytest.raises(CsraError, match=said):
            load_state(model, state, "x.pth")
        assert same(model.state_dict(), before)  # nothing half loaded
    load_state(model, good, "x.pth")
    assert same(model.state_dict(), good)


# ---- installed weights -------------------------------------------------------------------------------------------


def test_networks_without_installed_weights_are_named():
    assert not has_installed_weights("resnet18")
    with pytest.raises(CsraError, match=r"resnet18.*tf_efficientnet_lite0"):
        installed_state_dict("resnet18", nn.Linear(1, 1))


def test_installed_weights_of_another_shape_are_refused():
    if not has_installed_weights("tf_efficientnet_lite0"):
        pytest.skip("the package with the weights is not installed")
    with pytest.raises(CsraError, match="do not line up with timm's tf_efficientnet_lite0"):
        installed_state_dict("tf_efficientnet_lite0", nn.Linear(1, 1))


def test_known_packages_are_timm_networks():
    assert all(timm.is_model(name) for name in INSTALLED_WEIGHTS)


# ---- a hub that is not there -------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Point the hub at an address of this machine, with an empty cache and no proxy; return a function that does."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return lambda port: monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_no_network_fails_within_seconds_with_the_ways_out(hub, closed_port):
    hub(closed_port)
    start = time.monotonic()
    with pytest.raises(CsraError, match="timm's weights of test_resnet could not be fetched") as caught:
        create_backbone("test_resnet", weights="hub")
    assert time.monotonic() - start < 10
    text = one_sentence_or_two(caught)
    assert "cannot be reached" in text
    assert "weights=PATH" in text
    assert "tf_efficientnet_lite0" in text
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False  # and the hub's client is as it was


def one_sentence_or_two(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_server_that_drops_every_connection_is_no_hub(hub):
    """A filter in the network often answers and then hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        hub(server.getsockname()[1])
        start = time.monotonic()
        with pytest.raises(CsraError, match="cannot be reached"):
            create_backbone("test_resnet", weights="hub")
        assert time.monotonic() - start < 10


def test_a_server_that_never_answers_is_given_up(hub):
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = time.monotonic()
        assert not weights._hub_answers(f"http://127.0.0.1:{server.getsockname()[1]}", seconds=0.3)
        assert time.monotonic() - start < 5


class Answers(BaseHTTPRequestHandler):
    code = 200

    def do_HEAD(self):
        self.send_response(self.code)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("code", "answers"), [(200, True), (404, True), (401, True), (503, False)])
def test_any_answer_but_a_broken_server_is_a_hub(hub, monkeypatch, code, answers):
    monkeypatch.setattr(Answers, "code", code)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert weights._hub_answers(f"http://127.0.0.1:{server.server_port}", seconds=5) is answers
        hub(server.server_port)
        with hub_access("a thing"):
            assert huggingface_hub.constants.HF_HUB_OFFLINE is not answers
        server.shutdown()


def test_what_is_cached_needs_no_network(hub, closed_port, tmp_path):
    hub(closed_port)
    torch.manual_seed(5)
    model = timm.create_model("test_resnet")
    cfg = model.pretrained_cfg
    repo = tmp_path / "hub" / ("models--" + cfg["hf_hub_id"].replace("/", "--"))
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    save_file(model.state_dict(), snapshot / "model.safetensors")
    backbone = create_backbone("test_resnet", weights="hub", image_size=64)
    found = {k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}
    assert same(backbone.model.state_dict(), found)


def test_the_block_hands_on_clear_errors_and_translates_others(hub, closed_port):
    hub(closed_port)
    with pytest.raises(CsraError, match="my own"), hub_access("a thing"):
        raise CsraError("my own")
    with pytest.raises(KeyError), hub_access("a thing"):  # a mistake in the code is not a missing network
        raise KeyError("x")
    with pytest.raises(CsraError, match="a thing could not be fetched"), hub_access("a thing"):
        raise OSError("no route")
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_a_want_of_memory_is_not_called_a_torn_file(tmp_path, monkeypatch):
    torch.save(TENSORS, tmp_path / "a.pth")

    def refuse(bytes_wanted):
        def load(*_, **__):
            raise RuntimeError(
                f"DefaultCPUAllocator: can't allocate memory: you tried to allocate {bytes_wanted} bytes."
            )

        return load

    monkeypatch.setattr(torch, "load", refuse(2400))
    with pytest.raises(CsraError, match="no memory left to read"):
        read_state_dict(tmp_path / "a.pth")
    monkeypatch.setattr(torch, "load", refuse(10**15))  # no tensor of such a file
    with pytest.raises(CsraError, match="not a whole"):
        read_state_dict(tmp_path / "a.pth")


def test_blocks_that_overlap_leave_the_hub_as_it_was(hub, closed_port):
    """The first to enter is the first to leave, as with two threads."""
    hub(closed_port)
    first, second = hub_access("a thing"), hub_access("another")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert huggingface_hub.constants.HF_HUB_OFFLINE is True  # the second is still inside
    second.__exit__(None, None, None)
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False
