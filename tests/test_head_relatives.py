"""CSRA's relatives against literal loops, and at their limits."""

import math

import pytest
import torch

from csra_lab.errors import CsraError
from csra_lab.heads import CSRA, TopKMean
from csra_lab.heads.relatives import AttentionMIL, LearnedCSRA, NoisyOr, Wildcat

D, C = 6, 4
HEADS = [(Wildcat, {}), (Wildcat, {"num_heads": 1, "k_max": 99, "k_min": 2, "alpha": 0.0, "bias": True}),
         (Wildcat, {"num_heads": 3, "k_max": 2, "k_min": 4, "alpha": 1.0, "normalize": True}),
         (NoisyOr, {"bias": True}),
         (LearnedCSRA, {"lam": 0.7, "temperature": 2.0}), (AttentionMIL, {"hidden": 5}),
         (AttentionMIL, {"hidden": 5, "gated": False, "bias": True})]  # fmt: skip


def sigmoid(v):
    return 1 / (1 + math.exp(-v))


def literal(head, maps, locations):
    """One class: M lists of N scores, and N features -> a number."""
    n, config = len(maps[0]), head.config
    if isinstance(head, Wildcat):
        mean = sorted(sum(m[k] for m in maps) / len(maps) for k in range(n))
        high, low = min(config.k_max, n), min(config.k_min, n)
        return sum(mean[-high:]) / high + config.alpha * sum(mean[:low]) / low
    (scores,) = maps
    if isinstance(head, NoisyOr):
        p = 1 - math.prod(1 - sigmoid(s) for s in scores)
        return math.log(p / (1 - p))
    if isinstance(head, LearnedCSRA):
        lam, temperature = head.lams[0].item(), head.log_temperature.exp().item()  # as float32 holds what config says
        assert (lam, temperature) == pytest.approx((config.lam, config.temperature))
        powers = [math.exp(temperature * s) for s in scores]
        return sum(scores) / n + lam * sum(w * s for w, s in zip(powers, scores, strict=True)) / sum(powers)
    energies = []
    for x in locations:
        hidden = [math.tanh(v) for v in (head.hidden.weight @ x + head.hidden.bias).tolist()]
        if config.gated:
            gates = [sigmoid(v) for v in (head.gate.weight @ x + head.gate.bias).tolist()]
            hidden = [a * g for a, g in zip(hidden, gates, strict=True)]
        energies.append(math.exp(sum(w * v for w, v in zip(head.query.weight[0].tolist(), hidden, strict=True))))
    return sum(e * s for e, s in zip(energies, scores, strict=True)) / sum(energies)


@pytest.mark.parametrize(("kind", "options"), HEADS)
@torch.no_grad()
def test_every_head_is_its_literal_loop(kind, options):
    head, x = kind(D, C, **options).double(), torch.randn(2, D, 3, 5, dtype=torch.float64)
    head.weight.mul_(3)
    maps, attention, logits = head.score_maps(x).flatten(3), head.attention(x), head(x)
    for b in range(2):
        for c in range(C):
            expected = literal(head, maps[b, :, c].tolist(), x[b].flatten(1).T)
            assert logits[b, c].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    torch.testing.assert_close(attention.sum((3, 4)), torch.ones(2, head.num_heads, C, dtype=torch.float64))
    assert (attention >= 0).all()
    torch.testing.assert_close(head(x.flatten(2).transpose(1, 2)), logits)  # tokens


def same(source, target):
    target.load_state_dict(source.state_dict(), strict=False)
    return target


@torch.no_grad()
def test_limits():
    x = torch.randn(2, D, 3, 5)
    wildcat = Wildcat(D, C, num_heads=1, k_max=3, alpha=0)
    torch.testing.assert_close(wildcat(x), same(wildcat, TopKMean(D, C, k=3))(x))
    learned = LearnedCSRA(D, C, lam=0.3, temperature=2.0)
    csra = same(learned, CSRA(D, C, lam=0.3, temperatures=(2.0,), normalize=False))
    torch.testing.assert_close(learned(x), csra(x))
    one = torch.randn(2, D, 1, 1)
    noisy = NoisyOr(D, C)
    torch.testing.assert_close(noisy(one), noisy.score_maps(one)[:, 0, :, 0, 0])  # one location: its own score


def test_noisy_or_is_finite_and_its_attention_is_its_slope():
    head = NoisyOr(1, 1)
    for size in (-1e4, -100.0, -8.0, 8.0, 1e4):
        scores = torch.full((1, 1, 1, 3), size, requires_grad=True)
        logit = head.pool(scores)
        (slope,) = torch.autograd.grad(logit, scores)
        assert logit.isfinite()
        assert slope.isfinite().all()
    scores = torch.randn(1, 1, 1, 9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(head.pool(scores), scores)
    torch.testing.assert_close(head.weigh(scores), slope / slope.sum())


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Wildcat, {"k_max": 0}), (Wildcat, {"alpha": -1}), (Wildcat, {"bias": True}), (LearnedCSRA, {"temperature": 0}),
     (AttentionMIL, {"hidden": 0}), (AttentionMIL, {"gated": 1})],
)  # fmt: skip
def test_options_are_refused(kind, options):
    with pytest.raises(CsraError):
        kind(D, C, **options)
