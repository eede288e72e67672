"""Every head against a literal loop, at its limits, and through everything that must leave it as it was."""

import json
import math

import pytest
import torch
from torch import nn

from csra_lab.errors import CsraError
from csra_lab.heads import (
    CSRA,
    HEADS,
    PAPER_TEMPERATURES,
    AveragePooling,
    GeM,
    LogSumExp,
    MaxPooling,
    SpatialOnly,
    TopKMean,
    create_head,
    head_json,
    head_kind,
)

INF = math.inf
D, C = 6, 4
KINDS = [
    ("csra", {}),
    ("csra", {"num_heads": 2}),
    ("csra", {"num_heads": 3, "temperatures": [INF, 0.5, 2.0], "lam": 1.5, "normalize": False}),
    ("csra", {"temperatures": ["inf"], "lam": 0.3, "bias": True}),
    ("average", {}),
    ("average", {"bias": True, "normalize": True}),
    ("max", {"bias": True}),
    ("spatial", {"temperature": 3.0}),
    ("spatial", {"temperature": "inf", "bias": True}),
    ("lse", {"r": 2.5}),
    ("lse", {"r": 0.1, "normalize": True, "bias": True}),
    ("topk", {"k": 3}),
    ("topk", {"k": 99, "bias": True}),
    ("gem", {"p": 3.0}),
    ("gem", {"p": 1.5, "normalize": True, "bias": True}),
]
RELATIVES = [  # their literal loops are in test_head_relatives
    ("learned-csra", {"lam": 0.7, "temperature": 2.0}),
    ("wildcat", {}),
    ("wildcat", {"num_heads": 1, "bias": True, "alpha": 0.0}),
    ("noisy-or", {"bias": True}),
    ("attention-mil", {"hidden": 5}),
    ("class-queries", {"width": 8, "attention_heads": 2, "hidden": 5}),
    ("group-queries", {"width": 8, "groups": 2, "bias": True}),
    ("regularised", {"hidden": 5}),
    ("label-graph", {"embedding": 3, "hidden": 5, "lam": 0.4}),
]
NAMED = [pytest.param(kind, options, id=f"{kind} {options}") for kind, options in KINDS]
ALL = NAMED + [pytest.param(kind, options, id=f"{kind} {options}") for kind, options in RELATIVES]


def make(kind, options, dtype=torch.float64):
    head = create_head(kind, D, C, **options).to(dtype)
    with torch.no_grad():
        head.weight.mul_(5)
        if head.bias is not None:
            head.bias.uniform_(-1, 1)
    return head


def positive_features(*shape, dtype=torch.float64):
    """Features as they leave a ReLU; GeM needs them positive."""
    return torch.rand(*shape, dtype=dtype) + 0.1


# ---- literal loops -----------------------------------------------------------------------------------------------


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def literal_pool(head, kind, scores):
    """One class of one head on one image: a list of N scores -> a number."""
    n = len(scores)
    mean, best = sum(scores) / n, max(scores)

    def attended(temperature):
        if temperature == INF:
            return best
        powers = [math.exp(temperature * (s - best)) for s in scores]
        return dot(powers, scores) / sum(powers)

    if kind == "average":
        return mean
    if kind == "max":
        return best
    if kind == "spatial":
        return attended(head.config.temperature)
    if kind == "lse":
        return math.log(sum(math.exp(head.config.r * s) for s in scores) / n) / head.config.r
    if kind == "topk":
        k = min(head.config.k, n)
        return sum(sorted(scores, reverse=True)[:k]) / k
    raise AssertionError(kind)


def literal_forward(head, kind, x):
    """(B, d, N) -> (B, C), straight from the definitions."""
    images, d, n = x.shape
    out = torch.zeros(images, head.num_classes, dtype=torch.float64)
    for b in range(images):
        locations = [x[b, :, k].tolist() for k in range(n)]
        if kind == "gem":
            p = head.p.item()
            locations = [[(sum(f[i] ** p for f in locations) / n) ** (1 / p) for i in range(d)]]
        for c in range(head.num_classes):
            bias = head.bias[c].item() if head.bias is not None else 0.0
            for h in range(head.num_heads):
                m = head.weight[h, c].tolist()
                if head.config.normalize:
                    length = math.sqrt(dot(m, m))
                    m = [v / length for v in m]
                scores = [dot(m, f) + bias for f in locations]
                if kind == "csra":
                    one = SpatialOnly(1, 1, temperature=head.config.temperatures[h])
                    mean = sum(scores) / n
                    out[b, c] += mean + head.config.lam * literal_pool(one, "spatial", scores)
                elif kind == "gem":
                    out[b, c] += scores[0]
                else:
                    out[b, c] += literal_pool(head, kind, scores)
    return out


@pytest.mark.parametrize(("kind", "options"), NAMED)
def test_every_head_is_its_literal_loop(kind, options):
    head, x = make(kind, options), positive_features(2, D, 3, 5)
    expected = literal_forward(head, kind, x.flatten(2))
    torch.testing.assert_close(head(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kind", "options"), NAMED)
def test_score_maps_are_the_classifiers_at_every_location(kind, options):
    head, x = make(kind, options), torch.randn(2, D, 3, 5, dtype=torch.float64)
    maps = head.score_maps(x)
    assert maps.shape == (2, head.num_heads, C, 3, 5)
    for h in range(head.num_heads):
        weight = head.weight[h] / head.weight[h].norm(dim=1, keepdim=True) if head.config.normalize else head.weight[h]
        conv = nn.functional.conv2d(x, weight[:, :, None, None], head.bias)
        torch.testing.assert_close(maps[:, h], conv)


# ---- attention ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_attention_sums_to_one(kind, options):
    head, x = make(kind, options, torch.float32), positive_features(2, D, 3, 5, dtype=torch.float32)
    attention = head.attention(x)
    assert attention.shape == (2, head.num_heads, C, 3, 5)
    assert (attention >= 0).all()
    torch.testing.assert_close(attention.sum((3, 4)), torch.ones(2, head.num_heads, C))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("csra", {"temperatures": [INF]}), ("spatial", {"temperature": INF}), ("max", {}), ("topk", {"k": 1})],
)
def test_attention_is_one_hot_at_the_best_location_at_infinity(kind, options):
    head, x = make(kind, options), torch.randn(3, D, 4, 4, dtype=torch.float64)
    attention, maps = head.attention(x).flatten(3), head.score_maps(x).flatten(3)
    assert torch.equal(attention.sort(dim=-1).values[..., :-1], torch.zeros(3, 1, C, 15, dtype=torch.float64))
    assert torch.equal(attention.argmax(-1), maps.argmax(-1))


@pytest.mark.parametrize(("kind", "options"), [k for k in KINDS if k[0] in ("average", "max", "spatial", "topk")])
def test_attention_times_scores_is_the_logit(kind, options):
    head, x = make(kind, options), torch.randn(3, D, 4, 4, dtype=torch.float64)
    summed = (head.attention(x) * head.score_maps(x)).sum((1, 3, 4))
    torch.testing.assert_close(head(x), summed)


@pytest.mark.parametrize("r", [0.2, 1.0, 20.0])
def test_the_attention_of_log_sum_exp_is_its_derivative(r):
    head, x = LogSumExp(D, C, r=r).double(), torch.randn(2, D, 3, 3, dtype=torch.float64)
    scores = head.score_maps(x).detach().flatten(3).requires_grad_()
    (slope,) = torch.autograd.grad(head.pool(scores).sum(), scores)
    torch.testing.assert_close(slope, head.attention(x).flatten(3))


def test_the_attention_of_gem_is_each_locations_share():
    head, x = GeM(D, C, p=3.0).double(), positive_features(2, D, 2, 2)
    share = torch.zeros(2, 2, 2, dtype=torch.float64)
    for b in range(2):
        for i in range(D):
            cubes = x[b, i] ** 3
            share[b] += cubes / cubes.sum() / D
    torch.testing.assert_close(head.attention(x), share[:, None, None].expand(2, 1, C, 2, 2))


# ---- inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_maps_tokens_and_channels_last_agree(kind, options):
    head, x = make(kind, options), positive_features(2, D, 3, 5)
    tokens = x.flatten(2).transpose(1, 2)  # (B, N, d)
    torch.testing.assert_close(head(tokens), head(x))
    torch.testing.assert_close(head.score_maps(tokens), head.score_maps(x).flatten(3))
    torch.testing.assert_close(head.attention(tokens), head.attention(x).flatten(3))
    last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(head(last), head(x))
    torch.testing.assert_close(head.attention(last), head.attention(x))
    torch.testing.assert_close(head(x.flip(3)), head(x))  # no head knows where a location is


@pytest.mark.parametrize("shape", [(2, D + 1, 3, 5), (2, 15, D + 1), (2, D), (D, 3, 5), (2, 3, D, 3, 5)])
def test_wrong_features_are_named(shape):
    for kind in HEADS:
        with pytest.raises(CsraError, match=r"\(B, 6, h, w\) or \(B, N, 6\)"):
            create_head(kind, D, C)(torch.randn(shape))


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_half_precision_and_autocast(kind, options):
    head, x = make(kind, options, torch.float32), positive_features(2, D, 4, 4, dtype=torch.float32)
    exact = head(x)
    torch.testing.assert_close(head.bfloat16()(x.bfloat16()).float(), exact, rtol=5e-2, atol=1e-1)
    head = head.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(head(x).float(), exact, rtol=5e-2, atol=1e-1)


@pytest.mark.parametrize("kind", HEADS)
def test_half_precision_gives_float32_logits_that_do_not_tie(kind):
    torch.manual_seed(0)
    x, head = torch.rand(64, 32, 7, 7), create_head(kind, 32, 5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = [head(x), head(x.bfloat16())]
    assert [each.dtype for each in (*logits, head.bfloat16()(x.bfloat16()))] == [torch.float32] * 3
    assert all(len(column.unique()) >= 62 for each in logits for column in each.T)


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_gradients_reach_the_classifier_and_stay_finite_on_flat_maps(kind, options):
    head = make(kind, options, torch.float32)
    for x in (torch.zeros(2, D, 4, 4), torch.full((2, D, 4, 4), 50.0), torch.randn(2, D, 4, 4)):
        x.requires_grad_()
        head(x).sum().backward()
        assert torch.isfinite(x.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in head.parameters())
    assert (head.weight.grad != 0).any()


BOTH_WAYS = pytest.mark.parametrize("size", [(2, 3), (3, 3)], ids=["convolution", "product"])
"""With 2 x 4 classifiers a contiguous map of 6 places is convolved, and one of 9 is read where it lies."""


def functions_behind(logits):
    """Names of the steps from which torch computes a gradient."""
    todo, names = [logits.grad_fn], set()
    while todo:
        step = todo.pop()
        names.add(type(step).__name__)
        todo += [before for before, _ in step.next_functions if before is not None]
    return names


@pytest.mark.parametrize(("size", "ours"), [((2, 3), False), ((3, 3), True)])
def test_both_ways_to_classify_a_map_are_tested_here(size, ours):
    logits = make("csra", {"num_heads": 2})(positive_features(3, D, *size))
    assert ("_PerImageBackward" in functions_behind(logits)) == ours


@BOTH_WAYS
def test_gradients_of_a_contiguous_map_are_right_once_and_twice(size):
    head, x = make("csra", {"num_heads": 2}), positive_features(3, D, *size).requires_grad_()

    def logits(weight, x):
        return torch.func.functional_call(head, {"weight": weight}, (x,))

    assert x.is_contiguous()
    assert torch.autograd.gradcheck(logits, (head.weight, x))
    assert torch.autograd.gradgradcheck(logits, (head.weight, x))


@BOTH_WAYS
@pytest.mark.parametrize("wanted", ["weight", "features"])
def test_only_the_gradient_that_is_wanted_is_made(wanted, size):
    head, x = make("csra", {"num_heads": 2}), positive_features(3, D, *size)
    head.weight.requires_grad_(wanted == "weight")
    x.requires_grad_(wanted == "features")
    head(x).sum().backward()
    assert (head.weight.grad is None) == (wanted != "weight")
    assert (x.grad is None) == (wanted != "features")


@BOTH_WAYS
def test_gradients_of_each_image_alone_add_up(size):
    """torch.func's way to ask for them, which a function of our own has to allow."""
    head, x = make("csra", {"num_heads": 2}), positive_features(4, D, *size)

    def logit(weight, features):
        return torch.func.functional_call(head, {"weight": weight}, (features[None],)).sum()

    each = torch.func.vmap(torch.func.grad(logit), in_dims=(None, 0))(head.weight, x)
    head(x).sum().backward()
    torch.testing.assert_close(each.sum(dim=0), head.weight.grad)


@BOTH_WAYS
def test_gradients_of_all_logits_at_once_are_those_one_by_one(size):
    head, x = make("csra", {"num_heads": 2}), positive_features(3, D, *size)

    def logits(weight):
        return torch.func.functional_call(head, {"weight": weight}, (x,))

    weight = head.weight.detach()
    one_by_one = torch.autograd.functional.jacobian(logits, weight)
    torch.testing.assert_close(torch.func.jacrev(logits)(weight), one_by_one)
    torch.testing.assert_close(torch.autograd.functional.jacobian(logits, weight, vectorize=True), one_by_one)


@BOTH_WAYS
def test_a_head_in_training_is_one_graph_and_can_be_traced(size, tmp_path):
    head, x = make("csra", {"num_heads": 2}, torch.float32), torch.rand(3, D, *size)
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), head(x))
    compiled(x).sum().backward()
    found, head.weight.grad = head.weight.grad, None
    head(x).sum().backward()
    torch.testing.assert_close(found, head.weight.grad)

    torch.jit.trace(head, x).save(tmp_path / "head.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "head.pt")(x), head(x))


@BOTH_WAYS
def test_derivatives_along_a_direction_are_those_of_finite_steps(size):
    """Forward mode, in which torch asks for the change of the logits when features or weights change along one."""
    head, x = make("csra", {"num_heads": 2}), positive_features(3, D, *size)
    along_x, along_weight = torch.randn_like(x), torch.randn_like(head.weight)

    def logits(features, weight):
        return torch.func.functional_call(head, {"weight": weight}, (features,))

    weight = head.weight.detach()
    _, change = torch.func.jvp(logits, (x, weight), (along_x, along_weight))
    step = 1e-6
    ahead, behind = (logits(x + s * along_x, weight + s * along_weight) for s in (step, -step))
    torch.testing.assert_close(change, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)


@BOTH_WAYS
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_no_image_gives_no_logits_and_no_gradient(layout, size):
    head = make("csra", {"num_heads": 2})
    x = torch.empty(0, D, *size, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    assert head(x).shape == (0, C)
    head(x).sum().backward()
    assert (head.weight.grad == 0).all()
    assert x.grad.shape == x.shape


# ---- limits ------------------------------------------------------------------------------------------------------


def same_classifier(a, b):
    b.load_state_dict(a.state_dict(), strict=False)
    return b


def test_log_sum_exp_goes_from_the_mean_to_the_maximum():
    x = torch.randn(2, D, 5, 5)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-9)):
        average = AveragePooling(D, C).to(dtype)
        maximum = same_classifier(average, MaxPooling(D, C).to(dtype))
        y = x.to(dtype)
        for r in (1e-12, 1e-30):  # a small r must not cancel all digits
            head = same_classifier(average, LogSumExp(D, C, r=r).to(dtype))
            torch.testing.assert_close(head(y), average(y), rtol=tolerance, atol=tolerance)
        for r in (1e12, 1e30):  # nor a large one overflow
            head = same_classifier(average, LogSumExp(D, C, r=r).to(dtype))
            torch.testing.assert_close(head(y), maximum(y), rtol=tolerance, atol=tolerance)
        between = same_classifier(average, LogSumExp(D, C, r=2.0).to(dtype))(y)
        assert (average(y) < between).all()
        assert (between < maximum(y)).all()


def test_gem_goes_from_average_to_max_pooling():
    x = 5 * positive_features(2, D, 5, 5, dtype=torch.float32)
    average = AveragePooling(D, C)
    torch.testing.assert_close(same_classifier(average, GeM(D, C, p=1.0))(x), average(x))
    largest = nn.functional.linear(x.amax((2, 3)), average.weight[0])
    torch.testing.assert_close(same_classifier(average, GeM(D, C, p=1e5))(x), largest, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("p", [1.0, 3.0, 8.0, 40.0, 200.0])
def test_gem_is_stable_for_dead_channels_and_high_powers(p):
    """eps to the power 8 is nothing in float32, and 5 to the power 200 is infinite: neither may reach the gradient."""
    head, x = GeM(D, C, p=p), torch.rand(2, D, 3, 3) * 5
    x[:, 0] = 0
    x.requires_grad_()
    out = head(x)
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(head.p.grad)
    assert torch.isfinite(x.grad).all()
    torch.testing.assert_close(head.attention(x).sum((3, 4)), torch.ones(2, 1, C))


def test_top_k_goes_from_the_maximum_to_the_mean():
    x = torch.randn(2, D, 4, 4)
    average = AveragePooling(D, C)
    maximum = same_classifier(average, MaxPooling(D, C))
    assert torch.equal(same_classifier(average, TopKMean(D, C, k=1))(x), maximum(x))
    for k in (16, 17, 1000):
        torch.testing.assert_close(same_classifier(average, TopKMean(D, C, k=k))(x), average(x))


def test_spatial_only_and_csra_are_their_parts():
    x = torch.randn(2, D, 4, 4)
    average = AveragePooling(D, C)
    torch.testing.assert_close(same_classifier(average, SpatialOnly(D, C, temperature=0.0))(x), average(x))
    soft = same_classifier(average, SpatialOnly(D, C, temperature=2.0))
    csra = same_classifier(average, CSRA(D, C, temperatures=[2.0], lam=0.4, normalize=False))
    torch.testing.assert_close(csra(x), average(x) + 0.4 * soft(x))
    without = same_classifier(average, CSRA(D, C, temperatures=[2.0], lam=0.0, normalize=False))
    assert torch.equal(without(x), average(x))


# ---- normalisation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HEADS)
def test_normalised_heads_do_not_see_the_length_of_a_classifier(kind):
    x = positive_features(2, D, 3, 3)
    head = create_head(kind, D, C, normalize=True).double()
    before, plain = head(x), create_head(kind, D, C, normalize=False).double()
    plain.load_state_dict(head.state_dict())
    plain_before = plain(x)
    with torch.no_grad():
        head.weight[:, 1] *= 17
        plain.weight[:, 1] *= 17
    torch.testing.assert_close(head(x), before)
    assert not torch.allclose(plain(x)[:, 1], plain_before[:, 1])


def test_a_classifier_of_zeros_gives_zeros_not_nan():
    head = CSRA(D, C)
    nn.init.zeros_(head.weight)
    out = head(torch.randn(2, D, 3, 3))
    assert (out == 0).all()
    out.sum().backward()
    assert torch.isfinite(head.weight.grad).all()


# ---- the paper's lists, and CSRA's options -----------------------------------------------------------------------


def test_the_papers_temperatures():
    assert PAPER_TEMPERATURES == {
        1: (1,), 2: (1, INF), 4: (1, 2, 4, INF), 6: (1, 2, 3, 4, 5, INF), 8: (1, 2, 3, 4, 5, 6, 7, INF),
    }  # fmt: skip
    for heads, temperatures in PAPER_TEMPERATURES.items():
        assert CSRA(D, C, num_heads=heads).config.temperatures == temperatures
    defaults = CSRA(D, C)
    assert (defaults.num_heads, defaults.config.lam, defaults.config.normalize, defaults.bias) == (1, 0.1, True, None)


@pytest.mark.parametrize("heads", [3, 5, 7, 9, 16])
def test_other_counts_need_their_own_temperatures(heads):
    with pytest.raises(CsraError, match=rf"1, 2, 4, 6, 8 heads; for {heads}, pass temperatures"):
        CSRA(D, C, num_heads=heads)
    assert CSRA(D, C, num_heads=heads, temperatures=[2.0] * heads)(torch.randn(1, D, 2, 2)).shape == (1, C)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("csra", {"num_heads": 0}, "num_heads must be at least 1, not 0"),
        ("csra", {"num_heads": 2, "temperatures": [1.0]}, "1 temperatures.*2 heads"),
        ("csra", {"temperatures": [-1.0]}, "-1"),
        ("csra", {"temperatures": [math.nan]}, "nan"),
        ("csra", {"temperatures": ["hot"]}, "hot"),
        ("csra", {"temperatures": 2.0}, "2.0"),
        ("csra", {"lam": math.nan}, "lam.*nan"),
        ("csra", {"lam": INF}, "lam.*inf"),
        ("csra", {"lam": "much"}, "csra"),
        ("csra", {"num_heads": 2, "bias": True}, "bias"),
        ("spatial", {"temperature": -2}, "-2"),
        ("lse", {"r": 0}, "r must be.*0"),
        ("lse", {"r": INF}, "inf"),
        ("gem", {"p": -1}, "p must be.*-1"),
        ("gem", {"p": math.nan}, "nan"),
        ("topk", {"k": 0}, "k must be.*0"),
        ("topk", {"k": 0.5}, "0.5"),
        ("topk", {"k": 2.7}, "2.7"),
        ("topk", {"k": INF}, "inf"),
        ("topk", {"k": math.nan}, "nan"),
        ("average", {"lam": 0.1}, "average.*lam"),
        ("attention", {}, "'attention'.*csra, average"),
    ],
)
def test_bad_options_are_named(kind, options, said):
    with pytest.raises(CsraError, match=said):
        create_head(kind, D, C, **options)


@pytest.mark.parametrize(("d", "c", "said"), [(0, 3, "in_features"), (3, 0, "num_classes"), (3, -1, "-1")])
def test_bad_sizes_are_named(d, c, said):
    for kind in HEADS:
        with pytest.raises(CsraError, match=said):
            create_head(kind, d, c)


# ---- the four lines, there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lam", [0.0, 0.1, 2.0])
def test_four_lines_there_and_back(normalize, bias, lam):
    average, x = make("average", {"normalize": normalize, "bias": bias}, torch.float32), torch.randn(2, D, 3, 3)
    average.eval()
    before = average(x)
    four = average.with_four_lines(lam)
    maps = average.score_maps(x)[:, 0]
    torch.testing.assert_close(four(x), maps.mean((2, 3)) + lam * maps.amax((2, 3)))
    back = four.without_residual()
    assert type(back) is AveragePooling
    assert back.config == average.config
    assert torch.equal(back(x), before)  # to the last bit
    assert torch.equal(average(x), before)
    assert four.weight is average.weight is back.weight
    assert four.bias is average.bias is back.bias
    assert not four.training
    assert not back.training
    with torch.no_grad():
        average.weight.mul_(2)
    assert torch.equal(back(x), average(x))  # one storage, three views of it


def test_only_one_head_goes_back():
    with pytest.raises(CsraError, match="2"):
        CSRA(D, C, num_heads=2).without_residual()


# ---- written down and read again ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_config_builds_the_same_head_again(kind, options):
    head, x = make(kind, options, torch.float32), positive_features(2, D, 3, 3, dtype=torch.float32)
    written = json.dumps(head_json(head.config), allow_nan=False)  # strict JSON: no Infinity
    config = json.loads(written)
    assert config.pop("kind") == kind
    again = create_head(kind, D, C, **config)
    assert again.config == head.config
    assert "num_classes=4" in repr(head)
    state = {k: v.clone() for k, v in head.state_dict().items()}
    assert again.load_state_dict(state).missing_keys == []
    assert torch.equal(again(x), head(x))
    assert torch.equal(again.attention(x), head.attention(x))


def test_every_kind_is_tested_and_known():
    assert {kind for kind, _ in KINDS + RELATIVES} == set(HEADS)
    assert all(head_kind(create_head(kind, D, C)) == kind for kind in HEADS)
