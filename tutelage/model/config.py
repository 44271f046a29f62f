"""The shape of a decoder: one settings class for the six families that tutelage reads and writes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Scaling = Literal["linear", "dynamic", "llama3", "yarn"]
Family = Literal["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]

# Settings that a family fixes, because its Hugging Face class has no option for them.
_LLAMA = {"norm": "rmsnorm", "gated_mlp": True, "positions": "rope", "rotary_fraction": 1.0, "parallel_residual": False}
_GPT = {"norm": "layernorm", "gated_mlp": False, "mlp_bias": True, "qk_norm": False}
_NO_BIAS = {"qk_norm": False, "attention_out_bias": False, "mlp_bias": False}
_NO_WINDOW: dict[str, Any] = {"sliding_window": None, "full_attention_layers": ()}
FIXED: dict[str, dict[str, Any]] = {
    "gpt2": {**_GPT, **_NO_WINDOW, "positions": "learned", "rope_scaling": None, "parallel_residual": False}
    | {"qkv_bias": True, "attention_out_bias": True},
    "gpt_neox": {**_GPT, **_NO_WINDOW, "positions": "rope"},
    "llama": {**_LLAMA, **_NO_WINDOW, "qk_norm": False},
    "mistral": {**_LLAMA, **_NO_BIAS, "qkv_bias": False, "full_attention_layers": ()},
    "qwen2": {**_LLAMA, **_NO_BIAS, "qkv_bias": True},
    "qwen3": {**_LLAMA, "qk_norm": True, "mlp_bias": False},
}
# Defaults of a family for what it does not fix.
DEFAULTS: dict[str, dict[str, Any]] = {family: {"activation": "silu", "norm_eps": 1e-6} for family in FIXED} | {
    "gpt2": {"activation": "gelu_tanh", "tie_embeddings": True, "norm_eps": 1e-5},
    "gpt_neox": {"activation": "gelu", "rotary_fraction": 0.25, "parallel_residual": True, "norm_eps": 1e-5}
    | {"qkv_bias": True, "attention_out_bias": True},
}
# Families whose head_dim may differ from hidden_size / num_heads, and whose num_kv_heads may be below num_heads.
_LLAMAS = ("llama", "mistral", "qwen2", "qwen3")

# The settings that a kind of RoPE scaling requires besides factor.
_SCALING_REQUIRED: dict[str, tuple[str, ...]] = {
    "llama3": ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": ("original_max_position_embeddings",),
}


class RopeScaling(BaseModel):
    """How RoPE's frequencies are changed to extend the context beyond the pretraining length.

    Names are those of Hugging Face; ``rope.frequencies`` documents each kind and what it reads.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    kind: Scaling
    factor: float = Field(gt=0, description="how many times longer the context becomes")
    original_max_position_embeddings: int | None = Field(default=None, gt=0, description="tokens, in pretraining")
    low_freq_factor: float | None = Field(default=None, gt=0)
    high_freq_factor: float | None = Field(default=None, gt=0)
    beta_fast: float | None = Field(default=None, gt=0, description="yarn; None is 32")
    beta_slow: float | None = Field(default=None, gt=0, description="yarn; None is 1")
    attention_factor: float | None = Field(default=None, ge=0, description="cos and sin times this; None: derived")
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = Field(default=None, description="yarn: round the ramp's ends to whole pairs; None is True")

    @model_validator(mode="after")
    def _check(self) -> RopeScaling:
        for name in _SCALING_REQUIRED.get(self.kind, ()):
            if getattr(self, name) is None:
                raise ValueError(f"{self.kind} scaling needs {name}")
        return self


class ModelConfig(BaseModel):
    """Settings of one decoder.

    Only ``vocab_size``, ``hidden_size``, ``num_layers`` and ``num_heads`` are required; ``family`` determines the other
    defaults (``head_dim`` = hidden_size / num_heads, ``num_kv_heads`` = num_heads, ``intermediate_size`` = 4 x hidden_size,
    or 8/3 x hidden_size rounded up to a multiple of 8 for a gated MLP). Lengths are in tokens.

    Raises pydantic's ``ValidationError``; the message says which setting to change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    family: Family = "llama"
    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    num_kv_heads: int = Field(gt=0, description="key/value heads; fewer than num_heads is grouped-query attention")
    head_dim: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    max_position_embeddings: int = Field(default=1024, gt=0, description="longest sequence, in tokens")
    norm: Literal["rmsnorm", "layernorm"]
    norm_eps: float = Field(gt=0)
    activation: Activation
    gated_mlp: bool
    positions: Literal["rope", "learned"]
    rope_theta: float = Field(default=10000.0, gt=0)
    rope_scaling: RopeScaling | None = None
    rotary_fraction: float = Field(default=1.0, gt=0, le=1, description="share of head_dim that is rotated")
    parallel_residual: bool = Field(default=False, description="attention and MLP read the same input (GPT-NeoX)")
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = Field(default=False, description="RMSNorm over head_dim on queries and keys (Qwen3)")
    tie_embeddings: bool = False
    sliding_window: int | None = Field(default=None, gt=0, description="a token attends to this many, itself included")
    full_attention_layers: tuple[int, ...] = Field(
        default=(), strict=False, description="layers without the window (Qwen)"
    )
    init_std: float = Field(default=0.02, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        family = values.get("family", "llama")
        filled = {**FIXED.get(family, {}), **DEFAULTS.get(family, {}), **values}
        hidden, heads = filled.get("hidden_size"), filled.get("num_heads")
        if isinstance(heads, int) and heads > 0:
            filled.setdefault("num_kv_heads", heads)
            if isinstance(hidden, int):
                if "head_dim" not in filled and hidden % heads:
                    raise ValueError(f"hidden_size {hidden} is not a multiple of num_heads {heads}; or give head_dim")
                filled.setdefault("head_dim", hidden // heads)
        if isinstance(hidden, int):
            gated = -(-8 * hidden // 3 // 8) * 8
            filled.setdefault("intermediate_size", gated if filled.get("gated_mlp") else 4 * hidden)
        return filled

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        family, hidden, heads, kv_heads = self.family, self.hidden_size, self.num_heads, self.num_kv_heads
        for name, value in FIXED[family].items():
            if getattr(self, name) != value:
                raise ValueError(f"{name} must be {value!r} in the {family} family, not {getattr(self, name)!r}")
        if heads % kv_heads:
            raise ValueError(f"num_heads {heads} is not a multiple of num_kv_heads {kv_heads}: change either")
        if kv_heads != heads and family not in _LLAMAS:
            raise ValueError(f"the {family} family has no grouped-query attention: set num_kv_heads to num_heads")
        if self.head_dim * heads != hidden and family not in _LLAMAS:
            expected = f"num_heads {heads} x head_dim {self.head_dim}"
            raise ValueError(f"hidden_size {hidden} must be {expected} in the {family} family")
        if family == "llama" and hidden % heads:
            problem = f"hidden_size {hidden} must be a multiple of num_heads {heads} in the llama family"
            raise ValueError(f"{problem}, for any head_dim: change either, or use the mistral family")
        if family in ("gpt_neox", "llama", "qwen3") and self.qkv_bias != self.attention_out_bias:
            raise ValueError(f"qkv_bias and attention_out_bias must be equal in the {family} family")
        if self.positions == "rope" and (self.rotary_dim % 2 or self.rotary_dim == 0):
            problem = f"head_dim {self.head_dim} x rotary_fraction {self.rotary_fraction} is {self.rotary_dim}"
            raise ValueError(f"{problem}, but must be even and above 0: change head_dim or rotary_fraction")
        return self

    @property
    def rotary_dim(self) -> int:
        """How many of a head's dimensions RoPE rotates."""
        return int(self.head_dim * self.rotary_fraction)
