"""NCE over memory banks and InfoNCE: the reference's values, slow literal versions, and where gradients end."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from trainer.tasks.cpd.losses import info_nce, nce, normaliser, scores, update_bank

# What the reference gives (golden/losses/cpd.json).
GOLDEN = {
    "Z_v": 78.3709487915039,
    "Z_t": 91.07123565673828,
    "video_positive": 4.71140718460083,
    "video_negative": 0.9871399402618408,
    "text_positive": 3.730834722518921,
    "text_negative": 0.9738571047782898,
    "total": 10.403239250183105,
}
ROW = [
    0.013910447247326374,
    -0.029005900025367737,
    0.009760106913745403,
    -0.10379620641469955,
    0.056401852518320084,
    0.06666557490825653,
    0.042766984552145004,
    0.0759112611413002,
]


def unit(seed, rows, columns=256, dtype=np.float32):
    found = torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)).astype(dtype))
    return functional.normalize(found, dim=1)


def drawn(entries=50, rows=4, count=33):
    """(rows,count) places in a bank; the first column is the own one."""
    places = np.random.default_rng(4).integers(0, entries, (rows, count))
    places[:, 0] = range(rows)
    return torch.from_numpy(places)


def test_values_are_the_references():
    video, text, bank_v, bank_t, places = unit(0, 4), unit(1, 4), unit(2, 50), unit(3, 50), drawn()
    found = {"total": 0.0}
    for side, query, bank in (("v", video, bank_t), ("t", text, bank_v)):
        near = scores(query, bank, places, 0.07)
        constant = normaliser(near, 50)
        parts = nce(near, constant, 50)
        name = {"v": "video", "t": "text"}[side]
        found |= {f"Z_{side}": constant, f"{name}_positive": parts.positive, f"{name}_negative": parts.negative}
        found["total"] += parts.positive + parts.negative
    assert {name: float(value) for name, value in found.items()} == pytest.approx(GOLDEN, rel=1e-4)
    update_bank(bank_v, torch.arange(4), video, 0.5)
    assert bank_v[0, :8].tolist() == pytest.approx(ROW, rel=1e-4)


@pytest.mark.data
def test_the_facts_here_are_those_of_the_golden_file(research_data):
    golden = json.loads((research_data / "golden/losses/cpd.json").read_text())
    assert {name: golden[name] for name in GOLDEN} == GOLDEN
    assert golden["updated_video_bank_row0_first8"] == ROW


def double(seed, rows, columns=8):
    return unit(seed, rows, columns, np.float64)


def agree(loss, literal, *parameters):
    """Both losses and their gradients are equal."""
    torch.testing.assert_close(loss, literal, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(
        *(torch.autograd.grad(it, parameters, retain_graph=True) for it in (loss, literal)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)


def literal_nce(query, bank, places, *, temperature, constant, entries):
    """reference/cpd.md section 6, entry by entry; constant is a number."""
    positive, negative = 0.0, 0.0
    noise = (places.shape[1] - 1) / entries
    for b in range(len(query)):
        for k, place in enumerate(places[b].tolist()):
            p = torch.exp(sum(x * y for x, y in zip(query[b], bank[place], strict=True)) / temperature) / constant
            if k == 0:
                positive = positive - torch.log(p / (p + noise + 1e-7)) / len(query)
            else:
                negative = negative - torch.log(noise / (p + noise + 1e-7)) / len(query)
    return positive, negative


def test_nce_and_its_gradient_are_those_of_a_loop():
    query, bank, places = double(0, 3).requires_grad_(), double(1, 20), drawn(20, 3, 7)
    near = scores(query, bank, places, 0.1)
    # Z comes from the scores themselves, and no gradient passes through it.
    constant = normaliser(near, 20)
    loss = nce(near, constant, 20)
    literal = literal_nce(query, bank, places, temperature=0.1, constant=constant.item(), entries=20)
    for ours, theirs in zip(loss, literal, strict=True):
        agree(ours, theirs, query)
    assert not constant.requires_grad


def test_the_constant_is_a_mean_over_all_drawn_entries():
    query, bank, places = double(0, 3), double(1, 20), drawn(20, 3, 7)
    total = 0.0
    for b in range(3):
        for place in places[b].tolist():
            total += float(torch.exp(query[b] @ bank[place] / 0.1))
    assert normaliser(scores(query, bank, places, 0.1), 20).item() == pytest.approx(total / 21 * 20, rel=1e-9)


def literal_info_nce(video, text, *, temperature, queues=None, foreign=None):
    total = 0.0
    for query, keys, past in ((video, text, 1), (text, video, 0)):
        for b in range(len(query)):
            near = [torch.exp(query[b] @ key / temperature) for key in keys]
            others = sum(near)
            if queues is not None:
                for k, key in enumerate(queues[past]):
                    if foreign[b, k]:
                        others = others + torch.exp(query[b] @ key / temperature)
            total = total - torch.log(near[b] / others) / len(query)
    return total


@pytest.mark.parametrize("queued", [False, True])
def test_info_nce_and_its_gradients_are_those_of_a_loop(queued):
    """Both sides learn from both directions; the queue is numbers."""
    video, text = double(0, 3).requires_grad_(), double(1, 3).requires_grad_()
    queues = (double(2, 5), double(3, 5)) if queued else None
    foreign = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]], dtype=torch.bool) if queued else None
    loss = info_nce(video, text, temperature=0.2, queues=queues, foreign_BK=foreign)
    agree(loss, literal_info_nce(video, text, temperature=0.2, queues=queues, foreign=foreign), video, text)


def test_a_queue_entry_of_the_own_sample_has_no_say():
    video, text = double(0, 2), double(1, 2)
    past, foreign = (double(2, 3), double(3, 3)), torch.tensor([[0, 1, 1], [0, 1, 1]], dtype=torch.bool)
    whole = info_nce(video, text, temperature=0.2, queues=past, foreign_BK=foreign)
    for queue in past:
        queue[0] = 9
    assert torch.equal(info_nce(video, text, temperature=0.2, queues=past, foreign_BK=foreign), whole)


@pytest.mark.parametrize("places", [[4, 1], [4, 1, 4, 0, 1]])
def test_banks_are_mixed_row_by_row(places, monkeypatch):
    """Where a place comes several times the last row counts, in whatever order a device writes."""
    bank, new, places = double(0, 6), double(1, len(places)), torch.tensor(places)
    expected = bank.clone()
    for row, place in enumerate(places.tolist()):
        mixed = [0.3 * old + 0.7 * fresh for old, fresh in zip(bank[place], new[row], strict=True)]
        length = sum(x * x for x in mixed) ** 0.5
        expected[place] = torch.stack([x / length for x in mixed])
    copy = torch.Tensor.index_copy_
    monkeypatch.setattr(torch.Tensor, "index_copy_", lambda to, d, at, rows: copy(to, d, at.flip(0), rows.flip(0)))
    update_bank(bank, places, new.requires_grad_(), 0.3)
    torch.testing.assert_close(bank, expected)
    assert not bank.requires_grad
