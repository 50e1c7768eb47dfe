"""Published checkpoints become weights files: whole, with their pixels, and without running what a file brings."""

import json
import os
import pickle
import re

import numpy as np
import pytest
import torch
import torchvision

from shards.errors import StorageError, UserError
from tests.trainer.reference_networks import clip, filled, shapes
from trainer.models import build_backbone
from trainer.models.convert import convert, convert_state
from trainer.models.references import REFERENCES
from trainer.models.sources import SOURCES
from trainer.models.weights import load_reference, load_weights

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def pooled(backbone, shape=(1, 3, 16, 64, 64)):
    with torch.no_grad():
        return backbone.eval()(clip(shape)).pooled


def test_a_checkpoint_of_several_gpus_becomes_a_weights_file(tmp_path):
    state = filled(shapes("pace-r21d"))
    checkpoint = {"epoch": 17, "state_dict": prefixed("module.", state), "opt_dict": {"state": {}, "lr": [0.001]}}
    torch.save(checkpoint | {"best_acc": np.float64(0.5)}, tmp_path / "epoch-18.pth.tar")
    conversion = convert(tmp_path / "epoch-18.pth.tar", "pace", tmp_path / "w.safetensors")
    loaded = load_weights(tmp_path / "w.safetensors")
    assert (loaded.id, loaded.convention.channels, loaded.convention.scale) == ("r21d-vcop", "bgr", 255.0)
    assert torch.equal(pooled(loaded), pooled(load_reference("pace-r21d", state).backbone))
    assert conversion.lines() == [
        "backbone    r21d-vcop",
        "matched     144 entries, 14,379,677 values",
        "missing     none",
        "unexpected  none",
        "left out    2 of the classifier",
        "pixels      BGR of 0..255, mean 0 0 0 std 1 1 1",
    ]


def test_rspnets_pretraining_file_gives_the_query_encoder():
    state = filled(shapes("pace-r21d"))
    trunk = {key: value for key, value in state.items() if not key.startswith("linear.")}
    other = {key: value + 1 for key, value in trunk.items()}
    heads = {f"fc{i}.2.{name}": torch.zeros(128) for i in (1, 2) for name in ("weight", "bias")}
    whole = {
        **prefixed("encoder_q.encoder.", trunk),
        **prefixed("encoder_q.", heads),
        **prefixed("encoder_k.encoder.", other),
        **prefixed("encoder_k.", heads),
        "queue": torch.zeros(128, 8),
        "queue_ptr": torch.zeros(1),
    }
    conversion = convert_state(whole, "rspnet")
    assert conversion.trunk == "encoder_q.encoder."
    assert conversion.left_out == {"heads": 4, "key encoder": 148, "queue": 2}
    assert conversion.backbone.convention.tree() == {"channels": "rgb", "scale": 1.0, **IMAGENET}
    assert torch.equal(pooled(conversion.backbone), pooled(load_reference("pace-r21d", state).backbone))


def coclr(key):
    """CoCLR's name of one of our keys (`backbone/s3dg.py`)."""
    key = re.sub(r"\.spatial\.(conv|bn)\.", r".\g<1>1.", key)
    key = re.sub(r"\.temporal\.(conv|bn)\.", r".\g<1>2.", key)
    key = re.sub(r"^mixed_(\w\w)\.branches\.0\.", r"Mixed_\1.branch0.0.", key)
    key = re.sub(r"^mixed_(\w\w)\.branches\.", r"Mixed_\1.branch", key)
    key = re.sub(r"^mixed_(\w\w)\.gates\.", r"Mixed_\1.gating_b", key)
    return key.replace("stem.", "Conv_1a.").replace("conv_2", "Conv_2")


@pytest.mark.parametrize(("name", "entries"), [("s3d-coclr", 924), ("s3dg-coclr", 1068)])
def test_coclrs_tensors_of_two_names_are_taken_once(name, entries):
    ours = build_backbone(name).eval()
    state = {coclr(key): value for key, value in ours.state_dict().items()}
    blocks = {f"block{i % 5 + 1}.{i}": value for i, value in enumerate(state.values())}
    assert len(state | blocks) == entries  # reference/models.md section 8
    heads = prefixed("encoder_q.2.", {"weight": torch.zeros(1024, 1024, 1, 1, 1), "bias": torch.zeros(1024)})
    conversion = convert_state({**prefixed("encoder_q.0.", state | blocks), **heads}, "coclr")
    assert conversion.backbone.id == name
    assert conversion.left_out == {"heads": 2, "second names of the same tensors": entries // 2}
    assert torch.equal(pooled(conversion.backbone), pooled(ours))


def test_a_cpd_checkpoint_without_downsampling_has_shortcut_a():
    for shortcut, options in (("A", {}), ("B", {"shortcut": "B"})):
        ours = build_backbone("cpd-r10", shortcut=shortcut)
        state = prefixed("module.visual_encoder.", ours.state_dict())
        state["module.vis_memory"] = torch.zeros(3, 256)
        state["module.textual_encoder.embeddings.weight"] = torch.zeros(3, 3)
        conversion = convert_state(state, "cpd")
        expected = {**options, "convention": SOURCES["cpd"].convention.tree()}
        assert (conversion.backbone.id, conversion.backbone.options) == ("cpd-r10", expected)
        assert conversion.left_out == {"memory banks": 1, "text encoder": 1}


@pytest.mark.parametrize("name", ["mc3_18", "s3d"])
def test_torchvisions_networks_give_the_same_features(name):
    """Independent code for the blocks of R3D and for S3D as CoCLR has it."""
    torch.manual_seed(0)
    theirs = getattr(torchvision.models.video, name)(weights=None).eval()
    conversion = convert_state(theirs.state_dict(), "torchvision")
    with torch.no_grad():
        x = clip((1, 3, 16, 64, 64))
        expected = theirs.features(x).mean((2, 3, 4)) if name == "s3d" else None
        if expected is None:
            theirs.fc = torch.nn.Identity()
            expected = theirs(x)
    assert torch.allclose(pooled(conversion.backbone), expected, rtol=1e-4, atol=1e-6)
    assert conversion.backbone.convention.mean == (0.43216, 0.394666, 0.37645)


def test_two_dimensional_resnets_are_where_tsm_starts_from():
    theirs = torchvision.models.resnet18(weights=None)
    conversion = convert_state(theirs.state_dict(), "torchvision")
    assert conversion.backbone.id == "tsm-r18"
    assert conversion.backbone.convention.tree() == {"channels": "rgb", "scale": 1.0, **IMAGENET}
    assert torch.equal(conversion.backbone.conv1.weight[:, :, 0], theirs.conv1.weight)


def test_pixels_may_be_given_and_flow_is_recognised(tmp_path):
    flow = build_backbone("resnet3d-hara-10", in_channels=2)
    state = flow.state_dict() | {"fc.weight": torch.zeros(400, 512), "fc.bias": torch.zeros(400)}
    torch.save({"arch": "resnet-10", "state_dict": state}, tmp_path / "flow.pth")
    given = {"channels": "bgr", "scale": 255.0, "mean": [99.475, 107.7354, 114.7748], "std": [1.0, 1.0, 1.0]}
    conversion = convert(tmp_path / "flow.pth", "kenshohara", tmp_path / "w", convention=given)
    assert conversion.backbone.in_channels == 2
    assert load_weights(tmp_path / "w").convention.tree() == given


def test_counters_that_old_pytorch_did_not_store_may_be_missing():
    state = {k: v for k, v in filled(shapes("statistics-r3d")).items() if "num_batches_tracked" not in k}
    conversion = convert_state(state, "statistics")
    assert conversion.filled == 12
    assert "missing     12 counters of batches, set to 0" in conversion.lines()
    assert conversion.left_out == {"heads": 4}


def test_a_gap_is_refused_with_the_nearest_network():
    state = filled(shapes("pace-r3d"))
    del state["conv3.block1.bn1.weight"]
    state["extra.weight"] = torch.zeros(3)
    with pytest.raises(UserError) as refusal:
        convert_state(state, "pace")
    lines = str(refusal.value).splitlines()
    assert lines[0] == (
        "the state dict is none of the networks of pace; the nearest is r3d-vcop: 71 of 72 entries match, "
        "1 missing, 1 unexpected, 0 other shape"
    )
    assert ["missing", "layer2.0.bn1.weight", "128"] in [line.split() for line in lines]
    assert ["unexpected", "extra.weight", "3"] in [line.split() for line in lines]
    with pytest.raises(UserError, match=r"unexpected +queue"):  # a gap of another source is none here
        convert_state(filled(shapes("pace-r3d")) | {"queue": torch.zeros(3)}, "pace")
    with pytest.raises(UserError, match="unknown source 'speednet'; allowed: pace, statistics"):
        convert_state(state, "speednet")


def test_another_source_that_fits_is_named():
    """Pace and statistics have the same networks, and other heads."""
    with pytest.raises(UserError, match=r"4 unexpected(.|\n)*It fits --from statistics\. Name the code"):
        convert_state(filled(shapes("statistics-r3d")), "pace")
    with pytest.raises(UserError, match=r"Is it a checkpoint of pace, whole\?"):
        convert_state({"other.weight": torch.zeros(3)}, "pace")


def test_a_network_whose_training_failed_is_refused():
    state = filled(shapes("pace-r3d"))
    state["bn1.running_var"][3:5] = torch.nan
    with pytest.raises(UserError, match="2 of its values are NaN or infinite"):
        convert_state(state, "pace")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_code_in_a_file_is_never_run(form, tmp_path):
    target, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = {"state_dict": filled({"conv1.weight": (1,)}), "extra": Evil(str(target))}
    if form == "plain":
        path.write_bytes(pickle.dumps(content["extra"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    asks = "" if form == "plain" else r"it asks for (posix|nt)\.mkdir; "
    with pytest.raises(UserError, match=asks + r"nothing that a file brings along is run|not a PyTorch checkpoint"):
        convert(path, "pace", tmp_path / "w")
    assert not target.exists()
    assert not (tmp_path / "w").exists()
    if form != "plain":
        torch.load(path, weights_only=False)  # it would have been
        assert target.exists()


def test_files_of_other_frameworks_are_named(tmp_path):
    target = tmp_path / "ran"
    caffe2 = {"blobs": {"conv1_w": np.zeros((2, 3))}, "extra": Evil(str(target))}
    for protocol in (2, 4):
        (tmp_path / "SLOWFAST_8x8_R50.pkl").write_bytes(pickle.dumps(caffe2, protocol))
        with pytest.raises(UserError, match=r"is a Caffe2 file, .*could run code.* \.pyth file"):
            convert(tmp_path / "SLOWFAST_8x8_R50.pkl", "pyslowfast", tmp_path / "w")
    for name in ("model.ckpt-1000.index", "model.ckpt-1000.data-00000-of-00001"):
        (tmp_path / name).write_bytes(bytes(100))
        with pytest.raises(UserError, match="part of a TensorFlow checkpoint"):
            convert(tmp_path / name, "statistics", tmp_path / "w")
    assert not target.exists()
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_both_forms_of_pytorch_files_are_read(zipped, tmp_path):
    """Those of PyTorch before 1.6 are no zip, whatever they are called."""
    state = filled(shapes("pace-r3d"))
    schedule = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), [3, 5])
    content = {"blobs": 3, "epoch": 17, "state_dict": prefixed("module.", state), "scheduler": schedule.state_dict()}
    torch.save(content, tmp_path / "c.pth.tar", _use_new_zipfile_serialization=zipped)
    assert (tmp_path / "c.pth.tar").read_bytes()[:2] == (b"PK" if zipped else b"\x80\x02")
    conversion = convert(tmp_path / "c.pth.tar", "pace", tmp_path / "w")
    for key, value in load_weights(tmp_path / "w").state_dict().items():
        assert torch.equal(conversion.backbone.state_dict()[key], value)
    assert torch.equal(load_weights(tmp_path / "w").stem.conv.weight, state["conv1.temporal_spatial_conv.weight"])
    with pytest.raises(UserError, match="is the checkpoint itself, which is not overwritten"):
        convert(tmp_path / "c.pth.tar", "pace", tmp_path / "c.pth.tar")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "file"
    for content in (b"", b"GIF89a", b"\x80\x02garbage", b"PK\x03\x04" + bytes(40)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            convert(path, "pace", tmp_path / "w")
    for content, message in (
        ({"epoch": 3}, "no state dict: it holds a dict with epoch"),
        ([1, 2], "no state dict: it holds a list"),
        ({"state_dict": {"a": torch.zeros(1), "b": 3}}, r"no tensors: b \(int\)"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=message):
            convert(path, "pace", tmp_path / "w")
    with pytest.raises(StorageError, match="cannot read"):
        convert(tmp_path / "absent", "pace", tmp_path / "w")


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_the_reference_networks_are_recognised(name, research_data):
    """And come out as `load_reference` makes them, which gives the golden outputs."""
    golden = json.loads((research_data / f"golden/models/{name}.json").read_text())
    state = filled({key: tuple(shape) for key, (shape, _) in golden["state_dict"].items()})
    conversion = convert_state(prefixed("module.", state), name.split("-")[0])
    reference = load_reference(name, state).backbone
    assert (conversion.backbone.id, conversion.backbone.convention) == (reference.id, reference.convention)
    expected, found = reference.state_dict(), conversion.backbone.state_dict()
    assert expected.keys() == found.keys() and all(torch.equal(expected[key], found[key]) for key in expected)
    assert conversion.matched + sum(conversion.left_out.values()) == len(state)
