"""What stands on the backbone: heads, concept prototypes, decoders and local aggregation (reference/concepts.md section
5). Names are those of the reference's state dict."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

RGB, FRAME, RESIDUAL = slice(0, 2), slice(2, 4), slice(4, 6)
"""The six views: two clips, two clips of one repeated frame, two clips of differences."""

VIEWS = 6


class Outputs(NamedTuple):
    """What the heads make of six views.

    Attributes:
        instance: head → (B,2,P); fvv, fvs, fvd of the RGB views, fsv of the frame views, fdv of the residual views.
        scores: (B,6,2C): cosines with the concepts, the first C static, the last C dynamic.
        made: (B,6,D): the features as decoded from the scores.
    """

    instance: dict[str, Tensor]
    scores: Tensor
    made: Tensor


class ConceptHeads(nn.Module):
    """All modules besides the backbone.

    Args:
        width: D, of the backbone's features; hidden layers have it too.
        concepts: C; there are C static and C dynamic ones.
        projection: P, of the instance heads.
    """

    def __init__(self, width: int, *, concepts: int, projection: int) -> None:
        super().__init__()
        self.concepts = concepts
        self.fvv, self.fvs, self.fvd, self.fsv, self.fdv = (_instance_head(width, projection) for _ in range(5))
        self.fv, self.fs, self.fd = (_mlp(width, width) for _ in range(3))
        self.prototype = nn.Linear(width, 2 * concepts, bias=False)
        self.prototype_s = nn.Linear(width, 2 * concepts, bias=False)
        self.prototype_d = nn.Linear(width, 2 * concepts, bias=False)
        self.gv = _mlp(2 * concepts, width)
        self.gs = _mlp(concepts, width)
        self.gd = _mlp(concepts, width)
        self.lit = LocalAggregation(width)
        self.normalise_prototypes()

    def forward(self, pooled_B6D: Tensor) -> Outputs:
        """Instance embeddings, scores and reconstructions of the pooled features."""
        instance = {
            "fvv": _rows(self.fvv, pooled_B6D[:, RGB]),
            "fvs": _rows(self.fvs, pooled_B6D[:, RGB]),
            "fvd": _rows(self.fvd, pooled_B6D[:, RGB]),
            "fsv": _rows(self.fsv, pooled_B6D[:, FRAME]),
            "fdv": _rows(self.fdv, pooled_B6D[:, RESIDUAL]),
        }
        parts = (
            (self.fv, self.prototype, RGB),
            (self.fs, self.prototype_s, FRAME),
            (self.fd, self.prototype_d, RESIDUAL),
        )
        scores = torch.cat([_scores(head, bank, pooled_B6D[:, views]) for head, bank, views in parts], dim=1)
        made = (
            _rows(self.gv, scores[:, RGB]),
            _rows(self.gs, scores[:, FRAME, : self.concepts]),
            _rows(self.gd, scores[:, RESIDUAL, self.concepts :]),
        )
        return Outputs(instance, scores, torch.cat(made, dim=1))

    def local(self, map_B6DTHW: Tensor) -> dict[str, Tensor]:
        """Kind → (B,2,K,D): what each concept gathers from the last map, of length 1. K is 2C for "rgb", C else."""
        parts = {
            "rgb": (RGB, self.prototype.weight),
            "frame": (FRAME, self.prototype_s.weight[: self.concepts]),
            "residual": (RESIDUAL, self.prototype_d.weight[self.concepts :]),
        }
        made = {}
        for name, (views, templates_KD) in parts.items():
            maps = map_B6DTHW[:, views]
            made[name] = self.lit(maps.flatten(0, 1), templates_KD).unflatten(0, maps.shape[:2])
        return made

    @torch.no_grad()
    def normalise_prototypes(self) -> None:
        """Scale every prototype to length 1."""
        for bank in (self.prototype, self.prototype_s, self.prototype_d):
            bank.weight.copy_(functional.normalize(bank.weight, dim=1))


class LocalAggregation(nn.Module):
    """One step of cross-attention in which templates compete for places (Slot Attention's)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project_q = nn.Linear(width, width, bias=False)
        self.project_k = nn.Linear(width, width, bias=False)
        self.project_v = nn.Linear(width, width, bias=False)
        self.norm_inputs = nn.LayerNorm(width)
        self.norm_templates = nn.LayerNorm(width)
        self.norm_mlp = nn.LayerNorm(width)
        hidden = max(1, width // 2)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width))

    def forward(self, map_NDTHW: Tensor, templates_KD: Tensor) -> Tensor:
        """(N,K,D) of length 1, from a map of any size."""
        places_NLD = self.norm_inputs(map_NDTHW.flatten(2).transpose(1, 2))
        query_KD = self.project_q(self.norm_templates(templates_KD)) * templates_KD.shape[1] ** -0.5
        share_NKL = (query_KD @ self.project_k(places_NLD).transpose(1, 2)).softmax(1) + 1e-8
        share_NKL = share_NKL / share_NKL.sum(2, keepdim=True)
        gathered = templates_KD + share_NKL @ self.project_v(places_NLD)
        return functional.normalize((gathered + self.mlp(self.norm_mlp(gathered))).float(), dim=2)


def _instance_head(width: int, projection: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, projection))


def _mlp(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, width)
    )


def _rows(module: nn.Module, rows_BVD: Tensor) -> Tensor:
    """The module on the rows of all views at once: (B,V,·) in float32."""
    out: Tensor = module(rows_BVD.flatten(0, 1)).float()
    return out.view(*rows_BVD.shape[:2], -1)


def _scores(head: nn.Module, bank: nn.Linear, pooled_B2D: Tensor) -> Tensor:
    embedding = functional.normalize(_rows(head, pooled_B2D), dim=2)
    # Half precision would round cosines, that are divided by 0.05, to steps of 1/256.
    with torch.autocast(embedding.device.type, enabled=False):
        return functional.linear(embedding, bank.weight.to(embedding.dtype))
