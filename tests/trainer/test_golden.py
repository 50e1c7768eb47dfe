"""The networks give the outputs of the public reference code (generated weights; no research data needed)."""

import json

import pytest
import torch

from tests.trainer.reference_networks import LOGITS, PARAMETERS, clip, filled, shapes
from trainer.models.weights import load_reference


def relative_error(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", LOGITS)
def test_logits_equal_the_reference(name):
    state = filled(shapes(name))
    prefixed = {f"module.{key}": value for key, value in state.items()}  # as several GPUs save it
    model = load_reference(name, prefixed if name == "pace-r3d" else state)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert not model.training
    for shape, logits in LOGITS[name].items():
        with torch.no_grad():
            outputs = model(clip(shape))
        assert list(outputs) == ["logits"]
        assert relative_error(outputs["logits"], torch.tensor([logits])) < 1e-4


@pytest.mark.data
@pytest.mark.parametrize("name", LOGITS)
def test_the_facts_here_are_those_of_the_golden_files(name, research_data):
    golden = json.loads((research_data / f"golden/models/{name}.json").read_text())
    assert {key: tuple(shape) for key, (shape, _) in golden["state_dict"].items()} == shapes(name)
    assert golden["parameters"] == PARAMETERS[name]
    assert {tuple(map(int, k.split("x"))): v["logits"]["values"] for k, v in golden["outputs"].items()} == LOGITS[name]
