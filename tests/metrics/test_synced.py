"""The torchmetrics metric: the same numbers, alone and over two processes."""

import multiprocessing

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torchmetrics import MetricCollection

from csra_lab.errors import CsraError
from csra_lab.metrics import multilabel_metrics
from csra_lab.metrics.synced import NAMES, SyncedMultilabelMetrics
from tests.metrics.test_accumulate import draw, fill


def assert_same(found, expected, atol=1e-12):
    for name in NAMES:
        assert found[name].item() == pytest.approx(getattr(expected, name), abs=atol), name
    np.testing.assert_allclose(found["per_class_AP"].numpy(), expected.per_class_AP, atol=atol)


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"ap": "voc11", "threshold": 0.2}], ids=str)
@pytest.mark.parametrize("bins", [None, 2**16])
def test_alone_it_is_multilabel_metrics(options, bins):
    scores, targets = draw()
    metric = SyncedMultilabelMetrics(5, bins=bins, **options)
    tensors = torch.from_numpy(scores), torch.from_numpy(targets)
    for _ in range(2):  # reset in between
        fill(metric, *tensors)
        assert_same(metric.compute(), multilabel_metrics(scores, targets, **options))
        metric.reset()


def test_half_precision_and_refusals():
    scores, targets = (torch.from_numpy(a) for a in draw())
    metric = SyncedMultilabelMetrics(5)
    metric.update(scores.bfloat16(), targets)
    assert_same(metric.compute(), multilabel_metrics(scores.bfloat16().float().numpy(), targets.numpy()))
    with pytest.raises(CsraError, match="sigmoid"):
        metric.update(3 * scores, targets)
    with pytest.raises(CsraError, match="top_k"):
        SyncedMultilabelMetrics(5, top_k=9)


def test_a_buffer_may_be_filled_anew():
    scores, targets = (torch.from_numpy(a) for a in draw())
    metric, targets = SyncedMultilabelMetrics(5), targets.to(torch.int8)
    buffers = scores.clone(), targets.clone()
    metric.update(*buffers)
    for buffer in buffers:
        buffer.zero_()
    assert_same(metric.compute(), multilabel_metrics(scores.numpy(), targets.numpy()))


def work(rank, file, results):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    scores, targets = (torch.from_numpy(a) for a in draw())
    part = slice(0, 40) if rank == 0 else slice(40, None)  # parts of unequal size
    for bins in (None, 2**16):
        metric = fill(SyncedMultilabelMetrics(5, bins=bins), scores[part], targets[part])
        results.put({name: value.tolist() for name, value in metric.compute().items()})
    dist.destroy_process_group()


def test_two_processes_measure_all_images_together(tmp_path):
    context = multiprocessing.get_context("fork")  # the imports of a fresh process would take longer than the test
    results = context.Queue()
    processes = [context.Process(target=work, args=(rank, tmp_path / "meet", results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in range(4)]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    expected = multilabel_metrics(*draw())
    for each in found:
        assert_same({name: torch.tensor(value, dtype=torch.float64) for name, value in each.items()}, expected)


def test_called_it_measures_the_batch_and_loses_nothing_that_cannot_be_measured():
    """Torchmetrics' own `forward` would lose what was gathered where a batch has no positive."""
    scores, targets = (torch.from_numpy(a) for a in draw())
    metric = SyncedMultilabelMetrics(5)
    assert_same(metric(scores, targets), multilabel_metrics(scores.numpy(), targets.numpy()))
    nothing = metric(scores[:1], torch.zeros_like(targets[:1]))
    assert all(torch.isnan(value).all() for value in nothing.values())
    whole = torch.cat([scores, scores[:1]]), torch.cat([targets, torch.zeros_like(targets[:1])])
    assert_same(metric.compute(), multilabel_metrics(*(each.numpy() for each in whole)))


def test_in_a_collection_each_keeps_its_own_options():
    """Torchmetrics merges metrics whose states are alike after a first batch, such as one below all thresholds."""
    scores, targets = (torch.from_numpy(a) for a in draw())
    options = {"low": {"threshold": 0.5}, "high": {"threshold": 0.9}, "three": {"top_k": 3}}
    together = MetricCollection({name: SyncedMultilabelMetrics(5, bins=4096, **each) for name, each in options.items()})
    together.update(scores / 4, targets)
    together.update(scores, targets)
    shown = np.concatenate([scores.numpy() / 4, scores.numpy()]), np.concatenate([targets.numpy()] * 2)
    for name, each in options.items():
        expected, found = multilabel_metrics(*shown, **each), together[name].compute()
        assert found["OR"].item() == pytest.approx(expected.OR)
        assert found["CP"].item() == pytest.approx(expected.CP)
