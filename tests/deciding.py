"""Models that decide inside and compute on with what they decided, and the rows on which some decision is a tie."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("gate", "masked", "kmeans", "codes", "queries", "rounded", "stepped", "running", "pooled", "sampled")


def rows(seed: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).normal(size=(16, 3, 16, 16)).astype(np.float32)}


class Deciding(nn.Module):
    """(B, 3, 16, 16) -> (B, …). One decision is made a tie, to the last places of float32. ``wrong`` decides otherwise:
    "turned" everywhere, "shifted" by more than rounding explains."""

    image_size = 16

    def __init__(self, kind: str, seed: int = 0, wrong: str = "") -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.kind, self.wrong, self.limit = kind, wrong, 0.5
        self.stem, self.mix, self.out = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 6)
        self.centres, self.score = nn.Parameter(torch.randn(5, 8)), nn.Linear(8, 1)
        self.register_buffer("bonus", torch.zeros(16))
        with torch.no_grad():
            self._tie(torch.from_numpy(rows(seed)["image"]), seed % 16, seed * 7 % 16)

    def _tie(self, images: Tensor, row: int, place: int) -> None:
        tokens = self._tokens(images)
        one = tokens[row, place]
        if self.kind in ("gate", "stepped"):
            self.limit = float(self.mix(one)[0])
        elif self.kind == "sampled":
            # (at + 1) * 4 / 2 - 0.5 is halfway where at / 2 is a half of a whole number, less 1
            self.limit = float(self.mix(one).tanh()[0] * 2)
        elif self.kind in ("running", "pooled"):
            values = self.score(tokens)[row, :, 0]
            place = int(values[:8].argmax()) if self.kind == "running" else place - place % 4
            other = 12 if self.kind == "running" else place + 1
            self.bonus[other] = values[place] - values[other]
        elif self.kind == "masked":
            self.limit = float((self.centres[0] @ one).sigmoid())
        elif self.kind == "rounded":
            self.limit = float(self.mix(one)[0] * 4 % 1.0)
        elif self.kind == "queries":
            best = self.score(tokens)[row, :, 0].topk(5)
            self.bonus[best.indices[4]] = best.values[3] - best.values[4]
        else:
            apart = (self.centres - one).norm(dim=-1)
            near = apart.topk(2, largest=False).indices
            self.centres[near[1]] = one + (self.centres[near[1]] - one) * (apart[near[0]] / apart[near[1]])

    def _tokens(self, image: Tensor) -> Tensor:
        return F.gelu(self.stem(image).flatten(2).transpose(1, 2))

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = getattr(self, f"_{self.kind}")(self._tokens(image))
        return self.out(found)

    def _gate(self, tokens: Tensor) -> Tensor:
        hidden = self.mix(tokens)
        opens = hidden > self.limit + (0.01 if self.wrong == "shifted" else 0.0)
        return torch.where(~opens if self.wrong == "turned" else opens, hidden * 2, hidden.new_zeros(())).softmax(-1)

    def _masked(self, tokens: Tensor) -> Tensor:
        scores = self.centres @ tokens.transpose(1, 2)
        mask = scores.sigmoid() < self.limit + (0.05 if self.wrong == "shifted" else 0.0)
        mask = ~mask if self.wrong == "turned" else mask
        mask = mask & ~mask.all(-1, keepdim=True)
        return scores.masked_fill(mask, float("-inf")).softmax(-1) @ tokens + self.centres

    def _nearest(self, tokens: Tensor) -> Tensor:
        apart = torch.cdist(tokens, self.centres.expand(len(tokens), -1, -1))
        places = apart.argmax(-1) if self.wrong == "turned" else apart.argmin(-1)
        return (places + 1) % 5 if self.wrong == "shifted" else places

    def _kmeans(self, tokens: Tensor) -> Tensor:
        hot = F.one_hot(self._nearest(tokens), 5).to(tokens.dtype).transpose(1, 2)
        return F.gelu(self.mix(hot @ tokens / (hot.sum(2, keepdim=True) + 1) + self.centres))

    def _codes(self, tokens: Tensor) -> Tensor:
        return F.gelu(self.mix(self.centres[self._nearest(tokens)]) + tokens)

    def _queries(self, tokens: Tensor) -> Tensor:
        scores = (self.mix(tokens) if self.wrong == "shifted" else self.score(tokens))[..., 0] + self.bonus
        best = scores.topk(4, 1, largest=self.wrong != "turned").indices
        queries = tokens.gather(1, best[..., None].expand(-1, -1, 8))
        return queries + (queries @ tokens.transpose(1, 2)).softmax(-1) @ tokens

    def _stepped(self, tokens: Tensor) -> Tensor:
        hidden = self.mix(tokens) - self.limit - (0.01 if self.wrong == "shifted" else 0.0)
        step = torch.heaviside(-hidden if self.wrong == "turned" else hidden, hidden.new_tensor(0.5))
        return tokens * step

    def _scored(self, tokens: Tensor) -> Tensor:
        scores = (self.mix(tokens) if self.wrong == "shifted" else self.score(tokens))[..., 0] + self.bonus
        return -scores if self.wrong == "turned" else scores

    def _running(self, tokens: Tensor) -> Tensor:
        best = self._scored(tokens).cummax(1).indices
        return tokens.gather(1, best[..., None].expand(-1, -1, 8))

    def _pooled(self, tokens: Tensor) -> Tensor:
        _, best = F.max_pool1d(self._scored(tokens)[:, None], 4, 4, return_indices=True)
        return tokens.gather(1, best[:, 0, :, None].expand(-1, -1, 8))

    def _sampled(self, tokens: Tensor) -> Tensor:
        at = self.mix(tokens).tanh() * 2 - self.limit + (0.05 if self.wrong == "shifted" else 0.0)
        grid = (-at if self.wrong == "turned" else at)[..., :2].reshape(-1, 4, 4, 2) / 2
        picture = tokens.transpose(1, 2).reshape(-1, 8, 4, 4)
        return F.grid_sample(picture, grid, "nearest", align_corners=False).flatten(2).transpose(1, 2)

    def _rounded(self, tokens: Tensor) -> Tensor:
        scaled = self.mix(tokens) * 4 - self.limit + 0.5
        scaled = scaled + (0.05 if self.wrong == "shifted" else 0.0)
        return (scaled.floor() if self.wrong == "turned" else scaled.round()) / 4 + tokens


class Coin(nn.Module):
    """Every row hangs on whether one sum is larger than the same in another order."""

    image_size = 16

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.wrong = nn.ModuleList(nn.Conv2d(3, 4, 4, 4) for _ in range(2)), wrong

    def forward(self, image: Tensor) -> Tensor:
        parts = image * 1.37
        one, other = parts.sum((1, 2, 3), keepdim=True), parts.flip(3).sum(3).sum(2).sum(1)[:, None, None, None]
        first = (one > other) != self.wrong
        return torch.where(first, self.heads[0](image), self.heads[1](image)).softmax(1) * image[:, :1, ::4, ::4]
