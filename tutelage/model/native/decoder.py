"""A decoder that runs in C++ on the CPU: packed weights, prompts into the cache, and decode steps on it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tutelage.errors import UsageError
from tutelage.model import decoder
from tutelage.model.cache import KVCache
from tutelage.model.decoder import Decoder
from tutelage.model.lora import LoRALinear
from tutelage.model.native.build import library
from tutelage.model.native.structures import Job, Layer, Matrix, Model, Norm, declare
from tutelage.model.rope import rope_at

Dtype = Literal["fp32", "bf16", "int8"]
KINDS: tuple[Dtype, ...] = ("fp32", "bf16", "int8")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
GROUP = 64
"""Weights along an input that share a scale in int8."""
PREFILL_ROWS = 512
"""Tokens of prompts that go through the layers together: enough for the products, and few enough for a small scratch."""
_STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
_BAD_TOKEN, _CACHE_FULL, _TABLE_SHORT = -1, -2, -3


def supported(model: Decoder) -> str | None:
    """None if a NativeDecoder can be made of ``model``, or the reason why not."""
    if model.embed.weight.device.type != "cpu":
        return f"the model is on {model.embed.weight.device}, and native decoding is for CPUs"
    if model.unembed is None and not model.config.tie_embeddings:
        return "the model is the trunk of a scalar model and has no output layer"
    scaling = model.config.rope_scaling
    if scaling is not None and scaling.kind == "dynamic":
        return "dynamic RoPE scaling changes the angles as the text grows, and native decoding has one table of them"
    return None


class ThreadCount:
    """All threads or one, whichever was faster lately.

    Threads wait for each other 5 or 6 times per layer. That costs microseconds on idle cores, more than a small model gains from
    them, and whole time slices where other programs use them: beside a training on the same two cores, two threads were 100 times
    slower than one. So the slower count is tried again, for one step, once the faster one has worked for RETRY times as long as the
    slower one's last step took, however long it was idle in between.
    """

    RETRY = 50

    def __init__(self, most: int) -> None:
        self._seconds = dict.fromkeys((1, most), 0.0)  # per token of the last step; 0: not tried yet
        self._left = 0.0  # seconds of work until the slower one's turn

    def pick(self) -> tuple[int, bool]:
        """The number of threads to use now, and whether that is a trial."""
        order = sorted(self._seconds, key=self._seconds.__getitem__)
        if len(order) == 1:
            return order[0], False
        if not self._seconds[order[0]]:
            return order[0], True
        trial = self._left <= 0
        return order[trial], trial

    def record(self, threads: int, seconds: float, tokens: int = 1) -> None:
        """Note what a step over so many tokens took."""
        self._seconds[threads] = seconds / tokens
        slower = self._seconds[threads] == max(self._seconds.values())
        self._left = self.RETRY * seconds if slower else self._left - seconds


class NativeDecoder:
    """Prompts and one new token per row and step, as ``Decoder`` computes them, without torch's cost per operator.

    For one thread at a time.

    ``dtype`` is that of the matrices; sums are in fp32, and so are embeddings, norms, biases and RoPE:

    - fp32
    - bf16: half the memory. Inputs are rounded to bf16 where the processor has products of bf16, and stay fp32 elsewhere.
    - int8: symmetric, one scale per output and 64 inputs: a quarter less error than with one per output. Inputs stay fp32.

    Weights are copied when it is made (adapters merged), except embeddings and norms, which are shared with ``model``. A row's
    results are the same bits in any batch and for any number of threads, by default torch's or one: see ``ThreadCount``.
    ``level`` is the instruction set, by default the processor's best: 0 portable, 1 AVX2, 2 AVX-512 with bf16.
    UsageError where ``supported`` gives a reason, and without a C++ compiler.
    """

    def __init__(
        self, model: Decoder, dtype: Dtype = "fp32", *, level: int | None = None, threads: int | None = None
    ) -> None:
        loaded, problem = library()
        reason = supported(model) or problem
        if reason or loaded is None:
            raise UsageError(f"native decoding: {reason}")
        if dtype not in KINDS:
            raise UsageError(f"native decoding: dtype {dtype!r} is unknown: give {', '.join(KINDS)}")
        self.config, self.dtype, self.threads = model.config, dtype, threads
        self._library = declare(loaded)
        best = loaded.best_level()
        self.level = best if level is None else level
        if not 0 <= self.level <= best:
            raise UsageError(f"native decoding: level {level} is not among this processor's, 0 to {best}")
        self._kept: list[object] = []  # what the C++ side points to
        self._model = self._describe(model)
        self._job, self._strides = Job(), (ctypes.c_int64 * 4)()
        self._flags = (ctypes.c_int32 * 2)()
        self._job.strides, self._job.done = ctypes.addressof(self._strides), ctypes.addressof(self._flags)
        self._job.stopped = ctypes.addressof(self._flags) + 4
        self._arranged: tuple[object, ...] = ()
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self._thread_counts: dict[tuple[int | str, int], ThreadCount] = {}  # by work and torch's number of threads
        self._make_table(256)
        self.prefills = True
        """Whether ``prefill`` is to be used: torch may be faster, whose products in bf16 have instructions of their own on some
        processors; see ``choice``."""

    # -- packing

    @torch.no_grad()
    def _describe(self, model: Decoder) -> Model:
        config = model.config
        layers = (Layer * config.num_layers)(*(self._layer(model, i) for i in range(config.num_layers)))
        self._kept.append(layers)
        positions = model.position_embedding
        return Model(
            kind=KINDS.index(self.dtype),
            vocab=config.vocab_size,
            hidden=config.hidden_size,
            num_layers=config.num_layers,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rotary=config.rotary_dim if config.positions == "rope" else 0,
            inner=config.intermediate_size,
            layernorm=config.norm == "layernorm",
            activation=ACTIVATIONS.index(config.activation),
            gated=config.gated_mlp,
            parallel=config.parallel_residual,
            eps=config.norm_eps,
            embed=self._pointer(model.embed.weight),
            positions=None if positions is None else self._pointer(positions.weight),
            final_norm=self._norm(model.final_norm),
            unembed=self._matrix((model.embed if model.unembed is None else model.unembed).weight, None),
            layers=ctypes.addressof(layers),
        )

    def _layer(self, model: Decoder, number: int) -> Layer:
        layer, config = model.layers[number], model.config
        assert isinstance(layer, decoder.Layer)
        attention, mlp = layer.attention, layer.mlp
        first = config.intermediate_size if config.gated_mlp else 0  # gate and up are one matrix in torch
        windowed = config.sliding_window is not None and number not in config.full_attention_layers
        return Layer(
            attention_norm=self._norm(layer.attention_norm),
            mlp_norm=self._norm(layer.mlp_norm),
            q_norm=None if attention.q_norm is None else self._pointer(attention.q_norm.weight),
            k_norm=None if attention.k_norm is None else self._pointer(attention.k_norm.weight),
            qkv=self._linear(attention.qkv),
            out=self._linear(attention.out),
            gate=self._linear(mlp.up, 0, first) if config.gated_mlp else Matrix(),
            up=self._linear(mlp.up, first),
            down=self._linear(mlp.down),
            window=config.sliding_window if windowed else 0,
        )

    def _pointer(self, weight: Tensor) -> int:
        kept = weight.detach().float().contiguous()
        self._kept.append(kept)
        return kept.data_ptr()

    def _norm(self, norm: nn.Module) -> Norm:
        bias = getattr(norm, "bias", None)
        assert isinstance(norm.weight, Tensor)
        return Norm(self._pointer(norm.weight), None if bias is None else self._pointer(bias))

    def _linear(self, part: nn.Module, first: int = 0, last: int | None = None) -> Matrix:
        """The rows first..last of a linear layer, adapted or not."""
        base = part.base if isinstance(part, LoRALinear) else part
        assert isinstance(base, nn.Linear)
        weight, bias = base.weight[first:last].float(), base.bias
        if isinstance(part, LoRALinear):
            weight = weight + part.delta()[first:last]
        return self._matrix(weight, None if bias is None else bias[first:last])

    def _matrix(self, weight: Tensor, bias: Tensor | None) -> Matrix:
        packed = pack(self._library, self.level, self.dtype, weight, bias)
        self._kept.append(packed)
        return packed[0]

    # -- decoding

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """The next token's logits of every row: tokens int64 [n] -> float32 [n, v].

        The same as ``model.logits(model(tokens[:, None], cache=cache)[:, 0])``: keys and values go into the cache, whose lengths
        grow by 1. ValueError if the cache is full or a token is not in the vocabulary.
        """
        logits = torch.empty(len(tokens), self.config.vocab_size)
        job = self._job
        job.logits, job.ids, job.steps, job.owners = logits.data_ptr(), None, 1, None
        self._decode(tokens, cache, self._pick_threads(len(tokens))[0])
        return logits

    def prefill(self, pieces: Sequence[Sequence[int]], cache: KVCache) -> None:
        """Keys and values of each row's next tokens into the cache: any number of them, without padding.

        The same bits as steps over them one by one, and the same as ``model(ids, cache=cache)`` up to rounding. The lengths of the
        cache grow by the pieces'. ValueError as in ``step``.
        """
        if len(pieces) != cache.batch:
            raise ValueError(f"{len(pieces)} pieces for the {cache.batch} rows of the cache")
        counts = torch.tensor([len(piece) for piece in pieces], dtype=torch.int64)
        tokens = torch.tensor([token for piece in pieces for token in piece], dtype=torch.int64)
        owners = torch.arange(len(pieces)).repeat_interleave(counts)
        places = torch.arange(len(tokens)) - (counts.cumsum(0) - counts)[owners] + cache.lengths[owners]
        job = self._job
        job.logits, job.ids, job.steps = None, None, 1
        for start in range(0, len(tokens), PREFILL_ROWS):
            few = slice(start, start + PREFILL_ROWS)
            part, mine = tokens[few], owners[few]
            job.owners = mine.data_ptr()
            threads, _ = self._pick_threads(f"prefill of up to {1 << len(part).bit_length()}")
            self._go(part, places[few], cache, threads)
        cache.lengths = cache.lengths + counts

    def run(
        self, tokens: Tensor, cache: KVCache, uniforms: Tensor, temperature: Tensor, stop_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Up to k steps that sample as ``sampler.sample`` does without filters and penalties.

        tokens int64 [n], uniforms float64 [n, k] in [0, 1), temperature float32 [n] (0: greedy), stop_ids int64 [n, any], filled up
        with -1 -> ids int64 [n, s], logprobs float32 [n, s], where s <= k is the number of steps made: they end after the step in
        which a row samples one of its stop ids or its logits are not finite (its logprob is then NaN), where the capacity of
        the cache ends, and now and then after the first, to time it (see ``ThreadCount``). The lengths of the cache grow by s;
        ``ids[:, -1]`` are the tokens to go on with.
        """
        n, longest = len(tokens), cache.longest()
        _check("uniforms", uniforms, torch.float64, (n, uniforms.shape[-1]))
        _check("temperature", temperature, torch.float32, (n,))
        _check("stop_ids", stop_ids, torch.int64, (n, stop_ids.shape[-1]))
        threads, trial = self._pick_threads(n)
        cache.reserve(longest + 1)
        steps = 1 if trial else min(uniforms.shape[1], cache.capacity - longest)
        uniforms, temperature, stop_ids = (
            uniforms[:, :steps].contiguous(),
            temperature.contiguous(),
            stop_ids.contiguous(),
        )
        ids, logprobs = torch.empty(n, steps, dtype=torch.int64), torch.empty(n, steps)
        job = self._job
        job.logits, job.ids, job.steps, job.logprobs = None, ids.data_ptr(), steps, logprobs.data_ptr()
        job.owners = None
        job.uniforms, job.temperatures = uniforms.data_ptr(), temperature.data_ptr()
        job.stops, job.stops_per_row = stop_ids.data_ptr(), stop_ids.shape[1]
        done = self._decode(tokens, cache, threads)
        return ids[:, :done], logprobs[:, :done]

    def _pick_threads(self, work: int | str) -> tuple[int, bool]:
        """For steps of so many rows, or another kind of work."""
        if self.threads is not None:
            return self.threads, False
        most = torch.get_num_threads()
        key = work, most
        if key not in self._thread_counts:
            self._thread_counts[key] = ThreadCount(most)
        self._count = self._thread_counts[key]
        return self._count.pick()

    def _decode(self, tokens: Tensor, cache: KVCache, threads: int) -> int:
        """Run the job's steps, whose inputs and outputs are set; returns the number of steps made."""
        _check("tokens", tokens, torch.int64, (cache.batch,))
        done = self._go(tokens.contiguous(), cache.lengths.contiguous(), cache, threads)
        cache.lengths = cache.lengths + done
        return done

    def _go(self, tokens: Tensor, lengths: Tensor, cache: KVCache, threads: int) -> int:
        """Run the job on tokens [rows] that follow ``lengths`` [rows] others, with room and a table for them."""
        job = self._job
        job.tokens, job.lengths = tokens.data_ptr(), lengths.data_ptr()
        while True:
            self._arrange(len(tokens), cache, threads)
            began = time.perf_counter()
            result = self._library.decode_steps(self.level, ctypes.byref(self._model), ctypes.byref(job))
            if result == 0:
                break
            if result == _BAD_TOKEN:
                raise ValueError(f"a token is not in the vocabulary of {self.config.vocab_size}")
            longest = int(lengths.max()) + job.steps
            if result == _CACHE_FULL:
                cache.reserve(longest)
            else:
                self._make_table(longest)
        done = self._flags[0]
        if self.threads is None:
            self._count.record(threads, (time.perf_counter() - began) / done, len(tokens))
        return done

    def _arrange(self, rows: int, cache: KVCache, threads: int) -> None:
        """What depends on the shape of the batch: it is the same for many steps."""
        store = cache.store
        job = self._job
        wants = job.logits is None, job.owners is None
        arranged = (rows, store.data_ptr(), store.dtype, store.shape, store.stride(), threads, wants)
        if arranged == self._arranged:
            return
        config, strides = self.config, store.stride()
        _check(
            "the cache",
            store,
            store.dtype,
            (2, config.num_layers, cache.batch, config.num_kv_heads, cache.capacity, config.head_dim),
        )
        if strides[5] != 1 or strides[4] != config.head_dim or store.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(
                f"the cache must hold heads one after another, in fp32 or bf16, not {store.dtype} with strides {strides}"
            )
        job.rows, job.threads, job.capacity, job.cache = rows, threads, cache.capacity, store.data_ptr()
        job.cache_bf16 = cache.dtype == torch.bfloat16
        self._strides[:] = list(strides[:4])
        size = self._library.scratch_size(self.level, ctypes.byref(self._model), ctypes.byref(job))
        if size + 64 > len(self._scratch):
            self._scratch = torch.empty(size + 64, dtype=torch.uint8)
        job.scratch = -(-self._scratch.data_ptr() // 64) * 64
        self._arranged = arranged

    def _make_table(self, length: int) -> None:
        """cos and sin [positions, rotary_dim / 2] for at least ``length`` positions."""
        config, job = self.config, self._job
        if config.positions == "learned":
            if length > config.max_position_embeddings and job.table:
                raise ValueError(f"{length} tokens, but the model has positions for {config.max_position_embeddings}")
            job.table = config.max_position_embeddings
            return
        size = max(length, 2 * job.table)
        half = config.rotary_dim // 2
        cos, sin = rope_at(config, torch.arange(size), config.max_position_embeddings)
        self._table = cos[:, :half].contiguous(), sin[:, half:].contiguous()
        job.cos, job.sin, job.table = self._table[0].data_ptr(), self._table[1].data_ptr(), size


def _check(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if tensor.dtype != dtype or tensor.shape != shape:
        expected = f"{dtype} {list(shape)}"
        raise ValueError(f"{name} must be {expected} for this model and cache, not {tensor.dtype} {list(tensor.shape)}")


def pack(
    library: ctypes.CDLL, level: int, dtype: Dtype, weight: Tensor, bias: Tensor | None
) -> tuple[Matrix, tuple[Tensor | None, ...]]:
    """A matrix [n, k] and its bias [n] as the kernels of a level read them, and the tensors that hold them."""
    weight = weight.detach().float().contiguous()
    n, k = weight.shape
    panel = library.panel_size(level)
    outputs, groups = -(-n // panel) * panel, -(-k // GROUP)
    weights = torch.empty(outputs * (k + k % 2), dtype=_STORED[dtype])
    scales = torch.empty(outputs * groups) if dtype == "int8" else None
    bias = None if bias is None else bias.detach().float().contiguous()
    pointers = [None if t is None else t.data_ptr() for t in (weights, scales, bias)]
    kind, threads = KINDS.index(dtype), torch.get_num_threads()
    library.pack_matrix(level, kind, weight.data_ptr(), n, k, threads, *pointers[:2])
    return Matrix(*pointers, n, k), (weights, scales, bias)
