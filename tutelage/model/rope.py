"""Rotary positions (Su et al. 2021): frequencies, kinds of scaling, and tables of cos and sin.

j: pair of rotated dimensions, r: rotary dimension (so j < r/2), p: position. The angle of pair j at position p is p * f_j,
with f_j = theta^(-2j/r) when there is no scaling.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutelage.model.config import ModelConfig, RopeScaling


def frequencies(config: ModelConfig, length: int, device: torch.device | str = "cpu") -> tuple[Tensor, float]:
    """(f_j [r/2] in fp32, the multiplier of cos and sin), by the formulas of transformers 5.

    ``length`` of the sequence, in tokens, matters only to ``dynamic``. With s the factor of the scaling:

    linear   f_j / s (Chen et al. 2023, position interpolation)
    dynamic  theta becomes theta * (s * length/max - (s - 1))^(r/(r - 2)) once length exceeds max = max_position_embeddings
    llama3   f_j where the wavelength is short, f_j / s where it is long, a ramp between (Llama 3.1)
    yarn     the same with a ramp over j, and cos and sin times 0.1 ln(s) + 1 (Peng et al. 2023, section 3)

    transformers 4 ignores yarn's ``factor`` and uses max_position_embeddings / original_max_position_embeddings as s; both
    versions agree if the two are equal.
    """
    scaling = config.rope_scaling
    theta = config.rope_theta
    if scaling is not None and scaling.kind == "dynamic":
        longest = config.max_position_embeddings
        stretch = scaling.factor * max(length, longest) / longest - (scaling.factor - 1)
        theta = theta * stretch ** (config.rotary_dim / (config.rotary_dim - 2))
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32, device=device) / config.rotary_dim
    plain = 1.0 / theta**exponents
    if scaling is None or scaling.kind == "dynamic":
        return plain, 1.0
    if scaling.kind == "linear":
        return plain / scaling.factor, 1.0
    if scaling.kind == "llama3":
        return _llama3(plain, scaling), 1.0
    return _yarn(plain, config, scaling), _attention_factor(scaling)


def _llama3(plain: Tensor, scaling: RopeScaling) -> Tensor:
    """Keep wavelengths below original/high, stretch those above original/low by the factor, blend between."""
    length, low, high = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    assert length is not None and low is not None and high is not None  # noqa: PT018 (RopeScaling checks it)
    wavelengths = 2 * math.pi / plain
    share = (length / wavelengths - low) / (high - low)
    blended = (1 - share) * plain / scaling.factor + share * plain
    stretched = torch.where(wavelengths > length / low, plain / scaling.factor, plain)
    return torch.where((wavelengths >= length / high) & (wavelengths <= length / low), blended, stretched)


def _yarn(plain: Tensor, config: ModelConfig, scaling: RopeScaling) -> Tensor:
    """Keep pairs that turn over beta_fast times within the original length, stretch those under beta_slow, blend between."""
    length = scaling.original_max_position_embeddings
    assert length is not None  # RopeScaling checks it

    def pair_with_turns(times: float) -> float:
        return config.rotary_dim * math.log(length / (times * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    first, last = pair_with_turns(scaling.beta_fast or 32), pair_with_turns(scaling.beta_slow or 1)
    if scaling.truncate is not False:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, config.rotary_dim - 1)
    if first == last:
        last += 0.001  # against 0/0, as in transformers
    ramp = ((torch.arange(len(plain), dtype=torch.float32, device=plain.device) - first) / (last - first)).clamp(0, 1)
    return plain / scaling.factor * ramp + plain * (1 - ramp)


def _attention_factor(scaling: RopeScaling) -> float:
    """yarn's multiplier of cos and sin: given, or 0.1 m ln(s) + 1 for m = mscale over that for mscale_all_dim."""
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def of(m: float) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * m * math.log(scaling.factor) + 1

    if scaling.mscale and scaling.mscale_all_dim:
        return of(scaling.mscale) / of(scaling.mscale_all_dim)
    return of(1.0)


def rope_at(config: ModelConfig, positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin [..., rotary_dim] in fp32 for ``positions`` [...] of a sequence of ``length`` tokens.

    sin's first half is negated (see ``decoder.rotate``).
    """
    if config.rope_scaling is None:
        half = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32, device=positions.device) / config.rotary_dim
        angles, factor = positions.to(torch.float32)[..., None] / config.rope_theta**half, 1.0
    else:
        found, factor = frequencies(config, length, positions.device)
        angles = positions.to(torch.float32)[..., None] * found
    cos, sin = angles.cos(), angles.sin()
    if factor != 1:
        cos, sin = cos * factor, sin * factor
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
