"""The losses of static and dynamic concepts: the reference's values, slow literal versions, and where gradients end."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.trainer.reference_networks import filled
from tests.trainer.test_concepts_task import batch_of, literal_loss
from tests.trainer.test_concepts_task import concepts as small_task
from trainer.tasks.concepts import losses
from trainer.tasks.concepts.heads import FRAME, RESIDUAL, RGB, ConceptHeads, LocalAggregation

C = 20
STATIC, DYNAMIC = slice(0, C), slice(C, 2 * C)

# Values of the reference on seeded inputs (golden/losses/concepts.json).
GOLDEN = {
    "I_vv": 2.036238431930542,
    "I_vs": 4.3629231452941895,
    "I_vd": 4.384807586669922,
    "entropy_static": -2.870540142059326,
    "entropy_dynamic": -2.9037177562713623,
    "reconstruct_rgb": 0.013180837966501713,
    "reconstruct_frame": 0.011209490709006786,
    "reconstruct_residual": 0.002687131753191352,
    "local_rgb": 1.266254186630249,
    "local_frame": 1.2068418264389038,
    "local_residual": 1.2354342937469482,
}
ALIGN = {
    "batch_only": {"align_static": 3.0820555686950684, "align_dynamic": 3.08314847946167},
    "with_queue": {"align_static": 3.051333427429199, "align_dynamic": 3.03033709526062},
}
SCORES = [
    0.01430414617061615,
    -0.09916052967309952,
    -0.017878398299217224,
    0.010972997173666954,
    -0.01476831454783678,
    -0.0372830331325531,
    -0.02190903201699257,
    -0.025409355759620667,
]
SINKHORN = [
    0.03953532502055168,
    0.007376435212790966,
    0.02595677226781845,
    0.017195822671055794,
    0.0197366364300251,
    0.01658225804567337,
    0.032497067004442215,
    0.013818969950079918,
]


@pytest.fixture(scope="module")
def reference():
    """Heads, outputs, features and maps that the golden values belong to."""
    heads = ConceptHeads(512, concepts=C, projection=128).eval()
    heads.load_state_dict(filled({key: tuple(value.shape) for key, value in heads.state_dict().items()}))
    heads.normalise_prototypes()
    pooled, maps = (
        torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
        for seed, shape in ((10, (6, 6, 512)), (11, (6, 6, 512, 2, 8, 8)))
    )
    with torch.no_grad():
        return heads(pooled), pooled, heads.local(maps)


def contrast(query, key):
    return losses.instance_contrast(query, key, first=0, temperature=0.07)


def assigned(scores):
    return losses.sinkhorn(scores, epsilon=0.05, iterations=3)


def test_scores_assignment_and_instance_contrast_are_the_references(reference):
    outputs, _, _ = reference
    scores = outputs.scores
    assert scores[0, 0, :8].tolist() == pytest.approx(SCORES, rel=1e-4)
    assert scores.abs().mean().item() == pytest.approx(0.03568373620510101, rel=1e-4)
    assert assigned(scores[:, :1])[0, 0, :8].tolist() == pytest.approx(SINKHORN, rel=1e-4)
    of = outputs.instance
    v1, v2 = of["fvv"].unbind(1)
    assert ((contrast(v1, v2) + contrast(v2, v1)) / 2).item() == pytest.approx(GOLDEN["I_vv"], rel=1e-4)
    for name, one, other in (("I_vs", "fvs", "fsv"), ("I_vd", "fvd", "fdv")):
        (a1, a2), (b1, b2) = of[one].unbind(1), of[other].unbind(1)
        total = contrast(a1, b2) + contrast(a2, b1) + contrast(b1, a2) + contrast(b2, a1)
        assert (total / 2).item() == pytest.approx(GOLDEN[name], rel=1e-4)


@pytest.mark.parametrize("queue", ALIGN)
def test_alignment_is_the_references(reference, queue):
    scores = reference[0].scores
    every = scores
    if queue == "with_queue":
        every = torch.cat([scores, filled({"queue": (1024, 6, 2 * C)})["queue"]])
    for name, views, concepts in (("static", [0, 1, 2, 3], STATIC), ("dynamic", [0, 1, 4, 5], DYNAMIC)):
        target = assigned(every[:, views, concepts])[: len(scores)]
        loss = losses.alignment(scores[:, views, concepts], target, temperature=0.1)
        assert loss.item() == pytest.approx(ALIGN[queue][f"align_{name}"], rel=1e-4)


def test_entropy_reconstruction_and_local_contrast_are_the_references(reference):
    outputs, pooled, local = reference
    scores = outputs.scores
    found = {
        "entropy_static": losses.negative_entropy(scores[:, RESIDUAL, STATIC], temperature=0.1),
        "entropy_dynamic": losses.negative_entropy(scores[:, FRAME, DYNAMIC], temperature=0.1),
    }
    for kind, views, concepts in (("rgb", RGB, slice(None)), ("frame", FRAME, STATIC), ("residual", RESIDUAL, DYNAMIC)):
        made, feature = outputs.made[:, views].flatten(0, 1), pooled[:, views].flatten(0, 1)
        found[f"reconstruct_{kind}"] = losses.reconstruction(made, feature)
        active = losses.top_concepts(scores[:, views, concepts], above=10)
        found[f"local_{kind}"] = losses.local_contrast(
            local[kind], local[kind], active, terms=2 * active.sum() + 1, first=0, margin=1.4
        )
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {name: GOLDEN[name] for name in found}, rel=1e-4
    )


@pytest.mark.data
def test_the_facts_here_are_those_of_the_golden_file(research_data):
    golden = json.loads((research_data / "golden/losses/concepts.json").read_text())
    assert golden["scores_first8"] == SCORES and golden["sinkhorn_view0_row0_first8"] == SINKHORN
    for queue, aligned in ALIGN.items():
        found = {**golden[queue], **{name: golden[name] for name in ("I_vv", "I_vs", "I_vd")}}
        assert found == {**GOLDEN, **aligned}


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def agree(loss, literal, *parameters):
    """Both losses and their gradients are equal."""
    torch.testing.assert_close(loss, literal, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(*(torch.autograd.grad(value, parameters) for value in (loss, literal)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)


def test_instance_contrast_against_a_loop():
    query, key = random(3, 5).requires_grad_(), random(7, 5, seed=1).requires_grad_()
    loss = losses.instance_contrast(query, key, first=2, temperature=0.07)
    terms = []
    for i in range(3):
        near = [torch.exp(query[i] @ k.detach() / query[i].norm() / k.detach().norm() / 0.07) for k in key]
        terms.append(-torch.log(near[2 + i] / sum(near)))
    agree(loss, sum(terms) / 3, query)
    assert torch.autograd.grad(loss, key, allow_unused=True) == (None,)


def test_alignment_against_a_loop():
    scores, target = random(4, 3, 6).requires_grad_(), random(4, 3, 6, seed=1).softmax(2).requires_grad_()
    loss = losses.alignment(scores, target, temperature=0.1)
    total = 0.0
    for i in range(3):
        others = [k for k in range(3) if k != i]
        for k in others:
            for b in range(4):
                likely = torch.exp(scores[b, k] / 0.1)
                likely = likely / likely.sum()
                terms = [-target[b, i, c].detach() * torch.log(likely[c]) for c in range(6)]
                total = total + sum(terms) / 4 / len(others) / 3
    agree(loss, total, scores)
    assert torch.autograd.grad(loss, target, allow_unused=True) == (None,)


def test_entropy_and_reconstruction_against_loops():
    scores = random(4, 2, 6).requires_grad_()
    total = 0.0
    for row in scores.flatten(0, 1):
        likely = torch.exp(row / 0.1) / torch.exp(row / 0.1).sum()
        total = total + sum(p * torch.log(p) for p in likely) / 8
    agree(losses.negative_entropy(scores, temperature=0.1), total, scores)
    made, feature = random(4, 5).requires_grad_(), random(4, 5, seed=1).requires_grad_()
    loss = losses.reconstruction(made, feature)
    cosines = [sum(a * b) / a.norm() / b.norm() for a, b in zip(made, feature.detach(), strict=True)]
    agree(loss, -sum(cosines) / 4, made)
    assert torch.autograd.grad(loss, feature, allow_unused=True) == (None,)


def literal_local(local, key, active, first, margin):
    batch, total, count = len(key), 0.0, 0
    for q, k in ((0, 1), (1, 0)):
        for b in range(len(local)):
            for c in range(local.shape[2]):
                if not active[b, c]:
                    continue
                count += 1
                for p in range(batch):
                    cosine = local[b, q, c] @ key[p, k, c].detach()
                    delta = torch.sqrt(2 - 2 * cosine + 1e-5)
                    if p == first + b:
                        total = total + delta**2
                    else:
                        total = total + functional.relu(margin - delta) ** 2 / (batch - 1)
    return total / (count + 1)


@pytest.mark.parametrize("first", [0, 2])
def test_local_contrast_against_a_loop(first):
    local = functional.normalize(random(3, 2, 4, 5), dim=3).requires_grad_()
    key = functional.normalize(random(5, 2, 4, 5, seed=1), dim=3).requires_grad_()
    active = random(3, 4, seed=2) > 0
    terms = 2 * active.sum() + 1
    loss = losses.local_contrast(local, key, active, terms=terms, first=first, margin=1.4)
    agree(loss, literal_local(local, key, active, first, 1.4), local)
    assert torch.autograd.grad(loss, key, allow_unused=True) == (None,)


def test_local_contrast_of_equal_vectors_has_a_finite_gradient():
    raw = torch.ones(2, 2, 3, 4).requires_grad_()
    local = functional.normalize(raw, dim=3)
    active = torch.ones(2, 3, dtype=torch.bool)
    loss = losses.local_contrast(local, local, active, terms=2 * active.sum() + 1, first=0, margin=1.4)
    (gradient,) = torch.autograd.grad(loss, raw)
    assert loss.isfinite() and gradient.isfinite().all()


def test_local_aggregation_against_a_loop():
    """reference/concepts.md section 6.5: concepts share out each place, then average places by their shares."""
    torch.manual_seed(0)
    lit = LocalAggregation(6).double()
    for part in lit.parameters():
        torch.nn.init.normal_(part, std=0.5)
    maps, templates = random(2, 6, 2, 2, 3).requires_grad_(), random(4, 6, seed=1).requires_grad_()

    def norm(x, layer):
        return (x - x.mean()) / torch.sqrt(x.var(correction=0) + layer.eps) * layer.weight + layer.bias

    rows, where = [], list(itertools.product(range(2), range(2), range(3)))
    for n in range(2):
        places = [norm(maps[n, :, t, y, x], lit.norm_inputs) for t, y, x in where]
        queries = [lit.project_q.weight @ norm(t, lit.norm_templates) / 6**0.5 for t in templates]
        shares = []
        for place in places:
            near = torch.stack([torch.exp(q @ (lit.project_k.weight @ place)) for q in queries])
            shares.append(near / near.sum() + 1e-8)
        for c, template in enumerate(templates):
            total = sum(share[c] for share in shares)
            made = template + sum(
                s[c] / total * (lit.project_v.weight @ p) for s, p in zip(shares, places, strict=True)
            )
            made = made + lit.mlp(norm(made, lit.norm_mlp))
            rows.append(made / made.norm())
    expected = torch.stack(rows).view(2, 4, 6)
    made = lit(maps, templates)
    torch.testing.assert_close(made.double(), expected, rtol=1e-4, atol=1e-5)
    # Nothing is detached: concepts learn from what they gather, too.
    gradients = [
        torch.autograd.grad((it.double() ** 3).sum(), (maps, templates), retain_graph=True) for it in (made, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def literal_sinkhorn(scores):
    """reference/concepts.md section 6.2, in float64, for one view."""
    share = np.exp((scores - scores.max()) / 0.05).T
    share /= share.sum()
    concepts, rows = share.shape
    for _ in range(3):
        for c in range(concepts):
            share[c] /= share[c].sum() * concepts
        for n in range(rows):
            share[:, n] /= share[:, n].sum() * rows
    return (share / share.sum(0)).T


def test_sinkhorn_against_a_loop():
    scores = 0.3 * random(9, 2, 5)
    ours = losses.sinkhorn(scores, epsilon=0.05, iterations=3)
    for view in range(2):
        assert np.allclose(ours[:, view].numpy(), literal_sinkhorn(scores[:, view].numpy()), rtol=1e-9)


def test_rows_that_take_no_part_change_nothing():
    scores, valid = 0.3 * random(9, 2, 5), torch.tensor([True] * 4 + [False] * 3 + [True] * 2)
    ours = losses.sinkhorn(scores, valid_N=valid, epsilon=0.05, iterations=3)
    torch.testing.assert_close(ours[valid], losses.sinkhorn(scores[valid], epsilon=0.05, iterations=3))
    assert (ours[~valid] == 0).all()


def test_sinkhorn_of_a_noisy_queue_is_finite():
    """The reference's float32 exponentials of such scores underflow."""
    scores = torch.cat([random(4, 1, 5) * 0.1, random(60, 1, 5, seed=1) * 4]).float()
    share = losses.sinkhorn(scores, epsilon=0.05, iterations=3)
    assert share.isfinite().all()
    torch.testing.assert_close(share.sum(2), torch.ones(64, 1))


def test_active_concepts():
    """Strictly above the third largest, in both views: at most two."""
    scores = torch.tensor([[[5.0, 4, 3, 2, 1], [5, 1, 2, 3, 4]], [[1, 1, 1, 1, 2], [2, 1, 1, 1, 3]]])
    active = losses.top_concepts(scores, above=3)
    assert active.tolist() == [[True, False, False, False, False], [False, False, False, False, True]]
    likely = losses.likely_concepts(scores[:1] / 10, threshold=0.2, temperature=0.1)
    share = [math.exp(s) / sum(math.exp(k) for k in range(1, 6)) for s in (5, 4, 3, 2, 1)]
    assert [s > 0.2 for s in share] == [True, True, False, False, False]
    assert likely.tolist() == [[True, False, False, False, False]]


@pytest.mark.parametrize("epoch", [0, 10])
def test_gradients_of_all_losses_together_are_those_of_the_formulas(epoch):
    """Which terms reach which heads, prototypes and the backbone: features are detached where they are a target,
    scores and prototypes are not (reference/concepts.md sections 6 and 12.16)."""
    task = small_task().eval()
    task.queued.fill_(10)
    task._epoch = epoch
    batch = batch_of(task, epoch=epoch)
    named = dict(task.named_parameters())
    found = []
    queue = task.queue if epoch else None
    for loss in (task(batch)["loss"], literal_loss(task, batch, epoch=epoch, queue=queue)["loss"]):
        found.append(torch.autograd.grad(loss, list(named.values()), allow_unused=True))
    reached = 0
    for name, ours, theirs in zip(named, *found, strict=True):
        if theirs is None:
            assert ours is None or not ours.any(), name
            continue
        reached += bool(theirs.any())
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=lambda text, n=name: n + text)
    lit = sum(".lit." in name for name in named)
    assert reached >= len(named) - lit * (epoch == 0) - 1
