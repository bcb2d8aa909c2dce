"""The same models in transformers' terms: what config.json says of them, and the names and shapes of their tensors.

Two architectures that every other program knows: GPT-2, which is our GPT, and Qwen3, which is our ModernGPT. With the
details that are fixed here, theirs and ours compute the same (tests/test_model.py, tests/test_modern.py). Needs no torch,
so that a model can be opened without it.

Next: files.py
"""

from collections.abc import Mapping
from typing import Any

from .config import GPTConfig

ROPE_THETA = 10_000.0  # wavelengths of rotary positions: 2π to 2π * 10,000
NORM_EPS = 1e-6  # of a Qwen3's norms
LEAST_BLOCK = 320  # bytes that a block takes in a file of weights at least: the names, shapes and places of its tensors

Shapes = dict[str, tuple[int, ...]]

# Our sizes -> the keys of config.json, by model_type.
_OWN = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "dropout")
SIZES = {
    "minigpt-bigram": {"vocab_size": "vocab_size", "block_size": "block_size"},
    "minigpt-rung": {name: name for name in _OWN},
    "gpt2": {"vocab_size": "vocab_size", "block_size": "n_positions", "n_layer": "n_layer", "n_head": "n_head",
             "n_embd": "n_embd", "dropout": "resid_pdrop"},
    "qwen3": {"vocab_size": "vocab_size", "block_size": "max_position_embeddings", "n_layer": "num_hidden_layers",
              "n_head": "num_attention_heads", "n_embd": "hidden_size", "dropout": "attention_dropout"},
}  # fmt: skip
DROPOUT = {"gpt2": 0.1, "qwen3": 0.0}  # where config.json says nothing of it


def sizes(config: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """The sizes in a config.json, by our names (see GPTConfig). Raises ValueError naming those that are missing."""
    keys = SIZES[model_type]
    config = {keys["dropout"]: DROPOUT[model_type], **config} if model_type in DROPOUT else config
    return dict(zip(keys, required(config, *keys.values()), strict=True))


def required(config: Mapping[str, Any], *names: str) -> list[Any]:
    """Values that a config.json must have. Raises ValueError naming those that are missing."""
    missing = [name for name in names if name not in config]
    if missing:
        raise ValueError(f"config.json lacks {', '.join(missing)}")
    return [config[name] for name in names]


def as_written(config: Mapping[str, Any]) -> tuple[dict[str, Any], Shapes]:
    """What this package writes of a model of these sizes: its config.json, and the shapes of its tensors.

    Raises ValueError for sizes that cannot be, and for a rung of the ladder: those are known by their modules (rungs.py).
    """
    kind = config["model_type"]
    if kind == "minigpt-rung":
        raise ValueError("a rung of the ladder can only be read by torch")
    shape = GPTConfig(**sizes(config, kind))
    ours, shapes = {
        "minigpt-bigram": (bigram_config, bigram_shapes),
        "gpt2": (gpt2_config, gpt2_shapes),
        "qwen3": (qwen3_config, qwen3_shapes),
    }[kind]
    return {"model_type": kind, **ours(shape)}, shapes(shape)


def check_blocks(n_layer: Any, size: int) -> None:
    """Raise ValueError for so many blocks that a file of weights of this size, in bytes, cannot hold even their names."""
    if isinstance(n_layer, int) and LEAST_BLOCK * n_layer > size:
        raise ValueError(f"model.safetensors has {size:,} bytes; that is too little for {n_layer:,} blocks")


# ---- the bigram ---------------------------------------------------------------------------------------------------------


def bigram_config(c: GPTConfig) -> dict[str, Any]:
    """The config.json of a bigram, which no other program knows."""
    return {"vocab_size": c.vocab_size, "block_size": c.block_size}


def bigram_shapes(c: GPTConfig) -> Shapes:
    """The one tensor of model.safetensors."""
    return {"token_table.weight": (c.vocab_size, c.vocab_size)}


# ---- GPT-2 -------------------------------------------------------------------------------------------------------------

# What a GPT-2 can be in transformers, and is here.
GPT2_DETAILS = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}

# Our names -> transformers' names. Their Conv1D keeps a matrix as (in, out), nn.Linear as (out, in).
GPT2_NAMES = {
    "tok_emb": "wte",
    "pos_emb": "wpe",
    "ln_f": "ln_f",
    "ln_1": "ln_1",
    "attn.qkv": "attn.c_attn",
    "attn.proj": "attn.c_proj",
    "ln_2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


def gpt2_config(c: GPTConfig) -> dict[str, Any]:
    """The config.json of a GPT2LMHeadModel of this shape."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": c.vocab_size,
        "n_positions": c.block_size,
        "n_ctx": c.block_size,
        "n_embd": c.n_embd,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "resid_pdrop": c.dropout,
        "embd_pdrop": c.dropout,
        "attn_pdrop": c.dropout,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
        **GPT2_DETAILS,
    }


def gpt2_shapes(c: GPTConfig) -> Shapes:
    """The tensors of model.safetensors; the table for scores is that of the embedding, and stored once."""
    C = c.n_embd
    shapes: Shapes = {"transformer.wte.weight": (c.vocab_size, C), "transformer.wpe.weight": (c.block_size, C)}
    matrices = {"attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "mlp.c_fc": (C, 4 * C), "mlp.c_proj": (4 * C, C)}
    norms = [f"h.{i}.ln_{n}" for i in range(c.n_layer) for n in (1, 2)]
    for name in [*norms, "ln_f"]:
        shapes |= {f"transformer.{name}.weight": (C,), f"transformer.{name}.bias": (C,)}
    for i in range(c.n_layer):
        for name, shape in matrices.items():
            shapes |= {f"transformer.h.{i}.{name}.weight": shape, f"transformer.h.{i}.{name}.bias": shape[1:]}
    return shapes


def gpt2_name(name: str) -> tuple[str, bool]:
    """blocks.0.attn.qkv.weight -> ("transformer.h.0.attn.c_attn.weight", True); True if the matrix is transposed."""
    module, kind = name.rsplit(".", 1)
    if module.startswith("blocks."):
        _, layer, part = module.split(".", 2)
        return f"transformer.h.{layer}.{GPT2_NAMES[part]}.{kind}", kind == "weight" and part.startswith(("attn", "mlp"))
    return f"transformer.{GPT2_NAMES[module]}.{kind}", False


# ---- Qwen3 -------------------------------------------------------------------------------------------------------------

# What a Qwen3 can be in transformers, and is here.
QWEN3_DETAILS = {
    "hidden_act": "silu",
    "rms_norm_eps": NORM_EPS,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "use_sliding_window": False,
}

# Our names -> transformers' names; our one matrix of queries, keys and values is three of theirs.
QWEN3_NAMES = {
    "tok_emb": ["embed_tokens"],
    "ln_f": ["norm"],
    "ln_1": ["input_layernorm"],
    "attn.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "attn.q_norm": ["self_attn.q_norm"],
    "attn.k_norm": ["self_attn.k_norm"],
    "attn.proj": ["self_attn.o_proj"],
    "ln_2": ["post_attention_layernorm"],
    "mlp.gate": ["mlp.gate_proj"],
    "mlp.up": ["mlp.up_proj"],
    "mlp.down": ["mlp.down_proj"],
}


def swiglu_width(n_embd: int) -> int:
    """8/3 n_embd, rounded up to a multiple of 8: 384 -> 1024."""
    return -(-8 * n_embd // 24) * 8


def qwen3_details(c: GPTConfig) -> dict[str, Any]:
    """What a Qwen3 of this shape can be in transformers, and is here."""
    return {
        "intermediate_size": swiglu_width(c.n_embd),
        "num_key_value_heads": c.n_head,
        "head_dim": c.n_embd // c.n_head,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        **QWEN3_DETAILS,
    }


def qwen3_config(c: GPTConfig) -> dict[str, Any]:
    """The config.json of a Qwen3ForCausalLM of this shape. Raises ValueError for heads that cannot be turned."""
    c.check_rotary()
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.block_size,
        "hidden_size": c.n_embd,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "attention_dropout": c.dropout,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float32",
        "rope_theta": ROPE_THETA,  # transformers 4 reads this, 5 the rope_parameters
        **qwen3_details(c),
    }


def qwen3_shapes(c: GPTConfig) -> Shapes:
    """The tensors of model.safetensors."""
    C, width, hs = c.n_embd, swiglu_width(c.n_embd), c.n_embd // c.n_head
    block: Shapes = {
        "input_layernorm": (C,),
        **{f"self_attn.{part}_proj": (C, C) for part in "qkvo"},
        "self_attn.q_norm": (hs,),
        "self_attn.k_norm": (hs,),
        "post_attention_layernorm": (C,),
        "mlp.gate_proj": (width, C),
        "mlp.up_proj": (width, C),
        "mlp.down_proj": (C, width),
    }
    shapes: Shapes = {"model.embed_tokens.weight": (c.vocab_size, C), "model.norm.weight": (C,)}
    for i in range(c.n_layer):
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in block.items()}
    return shapes | {"lm_head.weight": (c.vocab_size, C)}


def qwen3_names(name: str) -> list[str]:
    """blocks.0.attn.proj.weight -> ["model.layers.0.self_attn.o_proj.weight"]."""
    module = name.removesuffix(".weight")
    if module.startswith("blocks."):
        _, layer, part = module.split(".", 2)
        return [f"model.layers.{layer}.{theirs}.weight" for theirs in QWEN3_NAMES[part]]
    if module == "lm_head":
        return [name]
    return [f"model.{theirs}.weight" for theirs in QWEN3_NAMES[module]]
