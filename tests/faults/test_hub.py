"""A model on the hub: from its cache with no network, not there, or with something wrong in it."""

import json
import socket

import huggingface_hub.constants
import pytest
import torch

from csra_lab import MultiLabelClassifier, create_classifier
from csra_lab.errors import CsraError


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A hub that nobody answers for, and the folder in its cache that holds somebody/model."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    snapshot = tmp_path / "models--somebody--model" / "snapshots" / ("0" * 40)
    refs = tmp_path / "models--somebody--model" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("0" * 40)
    return snapshot


def test_what_is_in_the_cache_needs_no_network(cached):
    model = create_classifier("test_resnet", classes=["a", "b"], image_size=64).eval()
    model.save_pretrained(cached)
    found = MultiLabelClassifier.from_pretrained("somebody/model", cache_dir=cached.parents[2])
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(found(image), model(image))


def test_what_is_wrong_with_it_is_one_sentence(cached, inject):
    create_classifier("test_resnet", classes=["a", "b"], image_size=64).save_pretrained(cached)
    config = json.loads((cached / "config.json").read_text())
    for wrong in ({"head": {"kind": "csra", "in_features": 3}}, {"backbone": 5}, {"auto_map": "evil.py"}):
        (cached / "config.json").write_text(json.dumps(config | wrong))
        inject("hub without a network or with a bad model")
        with pytest.raises(CsraError, match=r"config\.json|head 'csra'"):
            MultiLabelClassifier.from_pretrained("somebody/model", cache_dir=cached.parents[2])
    (cached / "config.json").unlink()
    (cached / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")  # which is never looked at
    with pytest.raises(CsraError, match=r"no config\.json"):
        MultiLabelClassifier.from_pretrained("somebody/model", cache_dir=cached.parents[2])


def test_what_is_not_there_is_one_sentence(cached, inject):
    inject("hub without a network or with a bad model")
    with pytest.raises(CsraError, match="somebody/other could not be fetched: the model hub cannot"):
        MultiLabelClassifier.from_pretrained("somebody/other")


def test_options_of_the_hub_do_nothing_for_a_folder(tmp_path):
    create_classifier("test_resnet", classes=["a", "b"], image_size=64).save_pretrained(tmp_path / "m")
    with pytest.raises(CsraError, match="revision, token would do nothing"):
        MultiLabelClassifier.from_pretrained(tmp_path / "m", revision="main", token="x")
