"""Heads with layers of their own against literal loops, and at their limits: queries, SRN, and a graph of labels."""

import math

import numpy as np
import pytest
import torch

from csra_lab.errors import CsraError
from csra_lab.heads import AveragePooling, ClassQueries, GroupQueries, LabelGraph, RegularisedAttention
from csra_lab.heads.label_graph import label_graph
from csra_lab.residual_attention import residual_max

D, C, N = 6, 5, 4
SMALL = {"width": 6, "attention_heads": 2, "hidden": 7}


def features(images=2):
    return torch.randn(images, D, 2, 2, dtype=torch.float64)


def rows(linear, vector):
    """A linear layer on a list of numbers, by hand."""
    bias = [0.0] * len(linear.weight) if linear.bias is None else linear.bias.tolist()
    return [sum(w * v for w, v in zip(row, vector, strict=True)) + b
            for row, b in zip(linear.weight.tolist(), bias, strict=True)]  # fmt: skip


def softmax(values):
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


def layer_norm(norm, values):
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values) + norm.eps)
    return [(v - mean) / spread * w + b
            for v, w, b in zip(values, norm.weight.tolist(), norm.bias.tolist(), strict=True)]  # fmt: skip


def relu(values):
    return [max(v, 0.0) for v in values]


def literal_query(head, query, tokens, weight):
    """The logit of one class: its query, N lists of d features, its classifier."""
    width, parts = head.config.width, head.config.attention_heads
    projected = [rows(head.project, token) for token in tokens]
    q, keys = rows(head.query, query), [rows(head.key, f) for f in projected]
    values, attended, size = [rows(head.value, f) for f in projected], [], width // parts
    for p in range(parts):
        part = slice(p * size, (p + 1) * size)
        products = [sum(a * b for a, b in zip(q[part], key[part], strict=True)) / math.sqrt(size) for key in keys]
        weights = softmax(products)
        attended += [sum(w * v[part][i] for w, v in zip(weights, values, strict=True)) for i in range(size)]
    u = layer_norm(head.norm, [a + b for a, b in zip(query, rows(head.out, attended), strict=True)])
    further = rows(head.second, relu(rows(head.first, u)))
    v = layer_norm(head.last_norm, [a + b for a, b in zip(u, further, strict=True)])
    return sum(a * b for a, b in zip(v, weight, strict=True))


@pytest.mark.parametrize(("kind", "options"), [(ClassQueries, {}), (GroupQueries, {"groups": 2})])
@torch.no_grad()
def test_queries_are_their_literal_loop(kind, options):
    head, x = kind(D, C, **SMALL, **options).double(), features()
    logits = head(x)
    for b in range(2):
        tokens = x[b].flatten(1).T.tolist()
        for c in range(C):
            query = head.queries.weight[c if kind is ClassQueries else c // 3].tolist()
            expected = literal_query(head, query, tokens, head.weight[0, c].tolist())
            assert logits[b, c].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@torch.no_grad()
def test_a_group_for_each_class_is_a_query_for_each_class():
    queries, x = ClassQueries(D, C, **SMALL).double(), features()
    groups = GroupQueries(D, C, groups=C, **SMALL).double()
    groups.load_state_dict(queries.state_dict())
    for name in ("forward", "score_maps", "attention"):
        assert torch.equal(getattr(groups, name)(x), getattr(queries, name)(x))
    many = GroupQueries(D, C, groups=99, **SMALL)  # fewer classes than groups: one for each
    assert many.queries.weight.shape == queries.queries.weight.shape


@torch.no_grad()
def test_a_group_shares_its_attention_and_not_its_logits():
    head, x = GroupQueries(D, C, groups=2, **SMALL).double(), features()
    attention, logits = head.attention(x), head(x)
    assert torch.equal(attention[:, :, 0], attention[:, :, 2])  # classes 0, 1, 2 and 3, 4
    assert not torch.allclose(attention[:, :, 0], attention[:, :, 3])
    assert not torch.allclose(logits[:, 0], logits[:, 2])


@pytest.mark.parametrize("kind", [ClassQueries, GroupQueries])
@torch.no_grad()
def test_the_score_of_a_location_is_the_logit_of_an_image_that_is_only_that(kind):
    head, x = kind(D, C, **SMALL, bias=True).double(), features()
    head.bias.uniform_()
    maps = head.score_maps(x)
    for i in range(2):
        for j in range(2):
            torch.testing.assert_close(maps[:, 0, :, i, j], head(x[:, :, i : i + 1, j : j + 1]))


@torch.no_grad()
def test_queries_that_ask_for_nothing_attend_everywhere_alike():
    head = ClassQueries(D, C, **SMALL).double()
    head.query.weight.zero_()
    head.query.bias.zero_()
    torch.testing.assert_close(head.attention(features()), torch.full((2, 1, C, 2, 2), 1 / N, dtype=torch.float64))


@torch.no_grad()
def test_regularised_attention_is_its_literal_loop():
    head, x = RegularisedAttention(D, C, hidden=7, alpha=0.3).double(), features()
    logits, maps, attention = head(x), head.score_maps(x).flatten(3)[:, 0], head.attention(x).flatten(3)[:, 0]
    for b in range(2):
        tokens = x[b].flatten(1).T.tolist()
        looked = [rows(head.look[4], relu(rows(head.look[2], relu(rows(head.look[0], t))))) for t in tokens]
        weights = [softmax([looked[k][c] for k in range(N)]) for c in range(C)]
        np.testing.assert_allclose(attention[b], weights, rtol=1e-9)
        total = [0.0] * 7
        for k in range(N):
            seen = [weights[c][k] / (1 + math.exp(-maps[b, c, k].item())) for c in range(C)]
            related = relu(rows(head.relate[2], relu(rows(head.relate[0], seen))))
            total = [a + r for a, r in zip(total, related, strict=True)]
        expected = [0.3 * maps[b, c].mean().item() + 0.7 * r for c, r in enumerate(rows(head.last, total))]
        np.testing.assert_allclose(logits[b], expected, rtol=1e-9)


@torch.no_grad()
def test_regularised_attention_at_alpha_1_is_average_pooling():
    head, average, x = RegularisedAttention(D, C, alpha=1.0), AveragePooling(D, C), features().float()
    average.weight = head.weight
    torch.testing.assert_close(head(x), average(x))


def test_the_label_graph_is_its_literal_loop():
    rng = np.random.default_rng(0)
    targets = rng.integers(-1, 2, (40, C))
    targets[:, 1] = targets[:, 0]  # 0 and 1 are always seen together
    targets[:, 4] = np.where(targets[:, 4] == 1, 0, targets[:, 4])  # 4 is never seen
    found = label_graph(targets, threshold=0.4, share=0.2)
    weights = np.zeros((C, C))
    for i in range(C):
        images = [row for row in targets if row[i] == 1]
        joined = [j for j in range(C) if j != i and images
                  and sum(row[j] == 1 for row in images) / len(images) >= 0.4]  # fmt: skip
        for j in joined:
            weights[i, j] = 0.2 / len(joined)
        weights[i, i] = 0.8
    total = weights.sum(axis=1)
    expected = [[weights[i, j] / math.sqrt(total[i] * total[j]) for j in range(C)] for i in range(C)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[0, 1] > 0
    np.testing.assert_array_equal(found[4], np.eye(C, dtype=np.float32)[4])


@torch.no_grad()
def test_a_graph_of_separate_labels_is_a_plain_two_layer_generator():
    head = LabelGraph(D, C, embedding=3, hidden=7).double()
    plain = torch.nn.Sequential(head.first, torch.nn.LeakyReLU(0.2), head.second)
    torch.testing.assert_close(head.classifiers(), plain(head.weight))
    head.read_labels(np.eye(C, dtype=np.int8))  # never two labels together
    torch.testing.assert_close(head.classifiers(), plain(head.weight))
    head.read_labels(np.ones((4, C), dtype=np.int8))
    assert not torch.allclose(head.classifiers(), plain(head.weight))


@torch.no_grad()
def test_the_four_lines_on_a_label_graph():
    x = features()
    four = LabelGraph(D, C, embedding=3, hidden=7, lam=0.3).double()
    four.read_labels(np.random.default_rng(0).integers(0, 2, (20, C)))
    torch.testing.assert_close(four(x), residual_max(four.score_maps(x)[:, 0], 0.3))
    torch.testing.assert_close((four.attention(x) * four.score_maps(x)).sum((1, 3, 4)) * 1.3, four(x))
    average = AveragePooling(D, C).double()
    average.weight = torch.nn.Parameter(four.classifiers())
    plain = LabelGraph(D, C, embedding=3, hidden=7).double()
    plain.load_state_dict(four.state_dict())  # the graph is saved with the weights
    torch.testing.assert_close(plain(x), average(x))


@pytest.mark.parametrize(
    ("kind", "options"),
    [(ClassQueries, {"attention_heads": 3, "width": 8}), (ClassQueries, {"width": 0}), (GroupQueries, {"groups": 0}),
     (RegularisedAttention, {"alpha": 1.1}), (RegularisedAttention, {"hidden": 2.5}), (LabelGraph, {"share": 1.0}),
     (LabelGraph, {"threshold": -0.1}), (LabelGraph, {"lam": -1.0}), (LabelGraph, {"temperature": -1})],
)  # fmt: skip
def test_options_are_refused(kind, options):
    with pytest.raises(CsraError):
        kind(D, C, **options)
