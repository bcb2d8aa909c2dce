"""How a GPT runs, told a second time: in plain NumPy, with no torch, no modules, no gradients.

A model that has learned is a handful of arrays, and reading a token is a few products with them. Here is all of it on a
page: what training needs is gone, so nothing hides what happens. It starts at once, and it checks the first telling: both
give the same scores (tests/test_numpy_engine.py).

    model = NumpyGPT2(config, tensors)      # the config.json and the tensors of a run
    scores = model.read([18, 47, 56])       # (V,): what may come after these
    scores = model.read([57])               # after one more; the keys and values of the others are remembered

T tokens are read at once, S is what can be looked at: they and the past.

Next: native_engine.py
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
AT_ONCE = 256  # tokens of a prompt: all of a long one would look at each other in arrays of gigabytes


class NumpyModel:
    """Reads tokens and answers with the scores of the next one. Remembers what it has read, up to block_size tokens."""

    vocab_size: int
    block_size: int
    reads_on = False  # beyond block_size
    length = 0  # tokens read so far

    def read(self, tokens: Sequence[int]) -> Array:
        """Read on -> scores (V,) of what comes next. Raises ValueError for more than block_size tokens in all.

        A model that reads on does so one by one there: a new token takes the place of the oldest that is remembered.
        """
        raise NotImplementedError

    def forget(self) -> None:
        """Begin anew."""
        self.length = 0

    def reader(self) -> "NumpyModel":
        """The same weights with a memory of their own."""
        return copy.copy(self)

    def follow(self, other: "NumpyModel") -> None:
        """Remember what another reader does."""
        self.length = other.length


class NumpyBigram(NumpyModel):
    """A row of a table."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
        self.vocab_size, self.block_size = config["vocab_size"], config["block_size"]
        self.table = tensors["token_table.weight"]  # (V, V)

    def read(self, tokens: Sequence[int]) -> Array:
        check_ids(tokens, self.vocab_size)
        return self.table[tokens[-1]]  # whatever was before


class NumpyTransformer(NumpyModel):
    """What GPT-2 and Qwen3 share: communicate, compute, both added to the residual; then a score for every token."""

    n_layer: int
    n_head: int
    n_embd: int
    tensors: dict[str, Array]
    keys = values = np.empty(0, np.float32)  # until something is read

    def read(self, tokens: Sequence[int]) -> Array:
        check_ids(tokens, self.vocab_size)
        length = self.length + len(tokens)
        if length > self.block_size and not (self.reads_on and len(tokens) == 1):
            raise ValueError(f"{length} tokens do not fit in a context of block_size {self.block_size}")
        if not self.keys.size:
            self.make_cache()
        for begin in range(0, len(tokens), AT_ONCE):
            part, start = np.asarray(tokens[begin : begin + AT_ONCE]), self.length
            self.length += len(part)
            x = self.embed(part, start)  # (T, C)
            for layer in range(self.n_layer):
                x = x + self.communicate(layer, x, start)
                x = x + self.compute(layer, x)
        return self.score(x[-1:])[0]

    def attend(self, layer: int, q: Array, k: Array, v: Array, start: int) -> Array:
        """Remember keys and values, then mix the values of all so far. q, k, v (T, C) -> (T, C)."""
        q, k, v = (a.reshape(len(a), self.n_head, -1).swapaxes(0, 1) for a in (q, k, v))  # (nh, T, hs)
        place = start % self.block_size  # a ring; the turned keys and values of what is in it need no order
        self.keys[layer, :, place : place + k.shape[1]], self.values[layer, :, place : place + k.shape[1]] = k, v
        keys, values = self.keys[layer, :, : self.length], self.values[layer, :, : self.length]  # (nh, S, hs)
        scores = q @ keys.swapaxes(1, 2) * np.float32(q.shape[-1] ** -0.5)  # (nh, T, S)
        if q.shape[1] > 1:
            scores = np.where(np.tri(q.shape[1], self.length, start, dtype=bool), scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (weights @ values).swapaxes(0, 1).reshape(q.shape[1], -1)  # (T, C): the heads side by side

    def reader(self) -> "NumpyTransformer":
        other = copy.copy(self)
        other.forget()
        other.keys = other.values = np.empty(0, np.float32)
        return other

    def follow(self, other: NumpyModel) -> None:
        assert isinstance(other, NumpyTransformer)
        self.length, read = other.length, slice(min(other.length, self.block_size))
        self.make_cache()  # room that was never written to takes no memory
        self.keys[:, :, read], self.values[:, :, read] = other.keys[:, :, read], other.values[:, :, read]

    def make_cache(self) -> None:
        """Room for the keys and values of block_size tokens, for each layer and head."""
        shape = (self.n_layer, self.n_head, self.block_size, self.n_embd // self.n_head)
        self.keys, self.values = np.empty(shape, np.float32), np.empty(shape, np.float32)

    def embed(self, tokens: np.ndarray, start: int) -> Array:
        raise NotImplementedError

    def communicate(self, layer: int, x: Array, start: int) -> Array:
        raise NotImplementedError

    def compute(self, layer: int, x: Array) -> Array:
        raise NotImplementedError

    def score(self, x: Array) -> Array:
        raise NotImplementedError


class NumpyGPT2(NumpyTransformer):
    """GPT-2: learned positions, layer norm, GELU, biases, one table for reading and scoring."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
        self.vocab_size, self.block_size = config["vocab_size"], config["n_positions"]
        self.n_layer, self.n_head, self.n_embd = config["n_layer"], config["n_head"], config["n_embd"]
        self.tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}

    def embed(self, tokens: np.ndarray, start: int) -> Array:
        return self.tensors["wte.weight"][tokens] + self.tensors["wpe.weight"][start : start + len(tokens)]

    def communicate(self, layer: int, x: Array, start: int) -> Array:
        q, k, v = np.split(self.linear(f"h.{layer}.attn.c_attn", self.norm(f"h.{layer}.ln_1", x)), 3, axis=-1)
        return self.linear(f"h.{layer}.attn.c_proj", self.attend(layer, q, k, v, start))

    def compute(self, layer: int, x: Array) -> Array:
        up = self.linear(f"h.{layer}.mlp.c_fc", self.norm(f"h.{layer}.ln_2", x))
        gelu = 0.5 * up * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (up + np.float32(0.044715) * up * up * up)))
        return self.linear(f"h.{layer}.mlp.c_proj", gelu)

    def score(self, x: Array) -> Array:
        return times(self.norm("ln_f", x), self.tensors["wte.weight"].T)

    def linear(self, name: str, x: Array) -> Array:
        return times(x, self.tensors[f"{name}.weight"]) + self.tensors[f"{name}.bias"]

    def norm(self, name: str, x: Array) -> Array:
        x = x - x.mean(-1, keepdims=True)
        scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-5))
        return x * scale * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]


class NumpyQwen3(NumpyTransformer):
    """Qwen3: positions by rotation, RMS norm (of queries and keys too), a gated feed-forward, no biases."""

    reads_on = True

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
        self.vocab_size, self.block_size = config["vocab_size"], config["max_position_embeddings"]
        self.n_layer, self.n_head, self.n_embd = (
            config[name] for name in ("num_hidden_layers", "num_attention_heads", "hidden_size")
        )
        self.eps = np.float32(config["rms_norm_eps"])
        self.tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        half = self.n_embd // self.n_head // 2
        self.frequencies = config["rope_parameters"]["rope_theta"] ** -(np.arange(half) / half)  # (hs/2,)

    def embed(self, tokens: np.ndarray, start: int) -> Array:
        positions = np.arange(start, start + len(tokens))  # the angles are float64: positions may grow large
        angles = np.outer(positions, self.frequencies)[:, None]  # (T, 1, hs/2)
        self.cos, self.sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        return self.tensors["embed_tokens.weight"][tokens]

    def communicate(self, layer: int, x: Array, start: int) -> Array:
        name, x = f"layers.{layer}.self_attn", self.norm(f"layers.{layer}.input_layernorm", x)
        q, k, v = (self.linear(f"{name}.{kind}_proj", x) for kind in "qkv")
        q, k = self.turn(f"{name}.q_norm", q), self.turn(f"{name}.k_norm", k)
        return self.linear(f"{name}.o_proj", self.attend(layer, q, k, v, start))

    def turn(self, name: str, x: Array) -> Array:
        """Normalise each head and turn it by its position: pairs of channels (i, i + hs/2). x (T, C) -> (T, C)."""
        heads = self.norm(name, x.reshape(len(x), self.n_head, -1))  # (T, nh, hs)
        left, right = np.split(heads, 2, axis=-1)
        turned = left * self.cos - right * self.sin, right * self.cos + left * self.sin
        return np.concatenate(turned, axis=-1).reshape(x.shape)

    def compute(self, layer: int, x: Array) -> Array:
        name, x = f"layers.{layer}.mlp", self.norm(f"layers.{layer}.post_attention_layernorm", x)
        gate, up = self.linear(f"{name}.gate_proj", x), self.linear(f"{name}.up_proj", x)
        silu = 0.5 * gate * (1 + np.tanh(0.5 * gate))  # gate * sigmoid(gate), where nothing can overflow
        return self.linear(f"{name}.down_proj", silu * up)

    def score(self, x: Array) -> Array:
        return times(self.norm("norm", x), self.tensors["lm_head.weight"].T)

    def linear(self, name: str, x: Array) -> Array:
        return times(x, self.tensors[f"{name}.weight"].T)

    def norm(self, name: str, x: Array) -> Array:
        return x * (1 / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps)) * self.tensors[f"{name}.weight"]


def check_ids(tokens: Sequence[int], vocab_size: int) -> None:
    """Raise ValueError for no token, or one that the model has not; NumPy would count from the end, and C read anything."""
    if not len(tokens):
        raise ValueError("there is no token to read")
    if min(tokens) < 0 or max(tokens) >= vocab_size:
        strange = next(token for token in tokens if not 0 <= token < vocab_size)
        raise ValueError(f"there is no token {strange}; this model has 0 to {vocab_size - 1}")


def times(x: Array, matrix: Array) -> Array:
    """x (T, in) @ matrix (in, out) -> (T, out). One row is a vector to the library below, which is faster so."""
    return (x[0] @ matrix)[None] if len(x) == 1 else x @ matrix


NUMPY_MODELS: dict[str, type[Any]] = {"minigpt-bigram": NumpyBigram, "gpt2": NumpyGPT2, "qwen3": NumpyQwen3}
