"""The networks give the outputs of the public reference code (generated weights; no research data needed)."""

import json

import pytest
import torch

from tests.trainer.reference_networks import OUTPUTS, PARAMETERS, clip, filled, shapes
from trainer.models.weights import load_reference


def relative_error(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_equal_the_reference(name):
    state = filled(shapes(name))
    prefixed = {f"module.{key}": value for key, value in state.items()}  # as several GPUs save it
    model = load_reference(name, prefixed if name == "pace-r3d" else state)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert not model.training
    for shape, expected in OUTPUTS[name].items():
        with torch.no_grad():
            outputs = model(clip(shape))
        assert list(outputs) == list(expected)
        for output, values in expected.items():
            assert relative_error(outputs[output], torch.tensor([values])) < 1e-4


@pytest.mark.data
@pytest.mark.parametrize("name", OUTPUTS)
def test_the_facts_here_are_those_of_the_golden_files(name, research_data):
    golden = json.loads((research_data / f"golden/models/{name}.json").read_text())
    assert {key: tuple(shape) for key, (shape, _) in golden["state_dict"].items()} == shapes(name)
    assert golden["parameters"] == PARAMETERS[name]
    outputs = {
        tuple(map(int, shape.split("x"))): {output: of["values"] for output, of in outputs.items()}
        for shape, outputs in golden["outputs"].items()
    }
    assert outputs == OUTPUTS[name]
