import time
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn as nn

from minigpt import GPT, GPTConfig
from minigpt.check import QUESTIONS, Finding, check
from minigpt.learner import load_model
from minigpt.modern import ModernGPT
from minigpt.rungs import RUNGS

SMALL = GPTConfig(vocab_size=20, block_size=16, n_layer=2, n_head=2, n_embd=16)

# The lecture's manner: sizes are globals, one head is a class, the class of the model takes no arguments.
LECTURE = """
import torch
import torch.nn as nn
from torch.nn import functional as F

vocab_size, block_size, n_embd, n_layer, dropout = 65, 16, 32, 2, 0.2
device = "cuda" if torch.cuda.is_available() else "cpu"


class Head(nn.Module):
    def __init__(self, head_size):
        super().__init__()
        self.key = nn.Linear(n_embd, head_size, bias=False)
        self.query = nn.Linear(n_embd, head_size, bias=False)
        self.value = nn.Linear(n_embd, head_size, bias=False)
        self.register_buffer("tril", torch.tril(torch.ones(block_size, block_size)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        T = x.shape[1]
        wei = self.query(x) @ self.key(x).transpose(-2, -1) * 16**-0.5
        wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))
        wei = F.softmax(wei, dim=-1)
        wei = self.dropout(wei)
        return wei @ self.value(x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList([Head(n_embd // 2) for _ in range(2)])
        self.ffwd = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.ReLU(), nn.Linear(4 * n_embd, n_embd))
        self.ln1, self.ln2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)

    def forward(self, x):
        x = x + self.attend(self.ln1(x))
        return x + self.ffwd(self.ln2(x))

    def attend(self, x):
        return torch.cat([head(x) for head in self.heads], dim=-1)


class GPTLanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.token_table = nn.Embedding(vocab_size, n_embd)
        self.position_table = nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*[Block() for _ in range(n_layer)])
        self.ln_f = nn.LayerNorm(n_embd)
        self.lm_head = nn.Linear(n_embd, vocab_size)

    def forward(self, idx, targets=None):
        B, T = idx.shape
        x = self.token_table(idx) + self.position_table(torch.arange(T, device=device))
        x = self.blocks(x)
        x = self.ln_f(x)
        logits = self.lm_head(x)
        if targets is None:
            return logits, None
        B, T, C = logits.shape
        logits = logits.view(B * T, C)
        targets = targets.view(B * T)
        loss = F.cross_entropy(logits, targets)
        return logits, loss

    def generate(self, idx, max_new_tokens):
        for _ in range(max_new_tokens):
            idx_cond = idx[:, -block_size:]
            logits, _ = self(idx_cond)
            probs = F.softmax(logits[:, -1, :], dim=-1)
            idx_next = torch.multinomial(probs, num_samples=1)
            idx = torch.cat((idx, idx_next), dim=1)
        return idx
"""

# nanoGPT's manner: a dataclass with GPT-2's sizes, and without targets only the last position is answered.
NANO = """
from dataclasses import dataclass
import torch
import torch.nn as nn
import torch.nn.functional as F

@dataclass
class GPTConfig:
    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.1
    bias: bool = True

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        layer = lambda: nn.TransformerEncoderLayer(
            config.n_embd, config.n_head, 4 * config.n_embd, config.dropout, "gelu", batch_first=True, norm_first=True)
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(config.vocab_size, config.n_embd), wpe=nn.Embedding(config.block_size, config.n_embd),
            h=nn.ModuleList([layer() for _ in range(config.n_layer)]), ln_f=nn.LayerNorm(config.n_embd)))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        nn.init.normal_(self.lm_head.weight, std=0.02)

    def forward(self, idx, targets=None):
        t = idx.size(1)
        assert t <= self.config.block_size, f"cannot forward {t} tokens"
        x = self.transformer.wte(idx) + self.transformer.wpe(torch.arange(t, device=idx.device))
        mask = torch.ones(t, t, dtype=torch.bool, device=idx.device).triu(1)
        for block in self.transformer.h:
            x = block(x, src_mask=mask)
        x = self.transformer.ln_f(x)
        if targets is None:
            return self.lm_head(x[:, [-1], :]), None
        logits = self.lm_head(x)
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, temperature=1.0):
        for _ in range(max_new_tokens):
            logits, _ = self(idx if idx.size(1) <= self.config.block_size else idx[:, -self.config.block_size:])
            probs = F.softmax(logits[:, -1, :] / temperature, dim=-1)
            idx = torch.cat((idx, torch.multinomial(probs, 1)), dim=1)
        return idx
"""

BIGRAM = """
import torch.nn as nn
from torch.nn import functional as F

class BigramLanguageModel(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, idx, targets=None):
        logits = self.table(idx)
        return logits, None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""

OURS = """
from minigpt import GPT, GPTConfig
model = GPT(GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=16))
"""


def write(source: str, name: str = "my_gpt.py") -> Path:
    path = Path(name)
    path.write_text(source, encoding="utf-8")
    return path


def findings_of(source: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in check(*load_model(write(source)))}


def changed(*changes: tuple[str, str], source: str = LECTURE) -> str:
    """The source with each old text replaced by a new one."""
    for old, new in changes:
        assert old in source, old
        source = source.replace(old, new)
    return source


# ---- what works ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [LECTURE, NANO, BIGRAM, OURS], ids=["lecture", "nanogpt", "bigram", "ours"])
def test_a_file_that_works_has_no_problem(source):
    started = time.perf_counter()
    findings = findings_of(source)
    assert [f for f in findings.values() if f.verdict == "problem"] == []
    assert list(findings) == [name for name, _ in QUESTIONS]
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("name", RUNGS)
def test_no_rung_of_the_ladder_has_a_problem(name):
    torch.manual_seed(0)
    model = RUNGS[name].model(GPTConfig(vocab_size=30, block_size=16, n_layer=2, n_head=2, n_embd=32))
    assert [f for f in check(model, 30, 16) if f.verdict == "problem"] == []


def test_what_lies_off_the_contract_but_does_no_harm_is_a_note():
    assert "flattened, (B*T, V)" in findings_of(LECTURE)["shapes"].saw
    assert "only the last position is answered" in findings_of(NANO)["shapes"].saw


def test_a_bigram_sees_one_token_and_learns_as_much_as_that_allows():
    findings = findings_of(BIGRAM)
    assert findings["use of the past"].verdict == findings["one batch by heart"].verdict == "note"
    assert "bigram" in findings["one batch by heart"].cause
    assert findings["positions"].verdict == "skipped"


def test_rotary_positions_are_known_and_positions_that_start_at_zero_too():
    torch.manual_seed(0)
    for model in (ModernGPT(SMALL), GPT(SMALL)):
        if isinstance(model, GPT) and hasattr(model, "pos_emb"):
            nn.init.zeros_(model.pos_emb.weight)
        (finding,) = [f for f in check(model, 20, 16) if f.name == "positions"]
        assert finding.verdict == "ok"


def test_the_model_itself_is_not_changed_nor_is_the_state_of_chance():
    model = GPT(SMALL).train()
    before, chance = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    for _ in check(model, 20, 16):
        assert torch.equal(torch.get_rng_state(), chance)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_it_says_the_same_each_time():
    assert findings_of(LECTURE) == findings_of(LECTURE)


# ---- what is broken --------------------------------------------------------------------------------------------------

MASK = 'wei = wei.masked_fill(self.tril[:T, :T] == 0, float("-inf"))\n'
SOFTMAX = "wei = F.softmax(wei, dim=-1)\n"
LOSS = "loss = F.cross_entropy(logits, targets)\n"
HEAD = "logits = self.lm_head(x)\n"
RETURN = "return logits, loss\n"
POSITION = " + self.position_table(torch.arange(T, device=device))"

# name: (the question that finds it, what is changed, a word of the answer)
BROKEN = {
    "no mask": ("leak of the future", [(MASK, "pass\n")], "No mask"),
    "mask without effect": ("leak of the future", [("wei = wei.masked_fill(", "wei.masked_fill(")], "masked_fill_"),
    "mask too weak": ("leak of the future", [('float("-inf")', "-3.0")], "-inf"),
    "mask reversed": ("leak of the future", [("torch.tril(torch.ones", "torch.triu(torch.ones")], "wrong way round"),
    "mask one too far": ("leak of the future", [("block_size, block_size)))", "block_size, block_size), 1))")], "one ahead"),
    "mask after softmax": ("leak of the future",
        [(MASK, "pass\n"), (SOFTMAX, SOFTMAX + "        wei = wei * self.tril[:T, :T]\n")], "first"),
    "softmax over queries": ("leak of the future", [(SOFTMAX, "wei = F.softmax(wei, dim=1)\n")], "dim=-1"),
    "mean over time": ("leak of the future", [(HEAD, "logits = self.lm_head(x + x.mean(1, keepdim=True))\n")], "mean"),
    "no attention": ("use of the past",
        [("x = x + self.attend(self.ln1(x))", "x = x + 0 * self.attend(self.ln1(x))")], "bigram"),
    "blind": ("use of the past", [("self.token_table(idx)", "self.token_table(idx * 0)")], "embedding"),
    "no positions": ("positions", [(POSITION, "")], "pos_emb"),
    "positions of ids": ("positions", [("torch.arange(T, device=device)", "idx % block_size")], "pos_emb"),
    "positions from the end": ("short and long texts", [("torch.arange(T", "block_size - T + torch.arange(T")], "arange"),
    "divided by length": ("short and long texts", [(HEAD, "logits = self.lm_head(x / T)\n")], "depends on T"),
    "list of layers": ("parts", [("nn.ModuleList([", "list([")], "nn.ModuleList"),
    "plain tensor": ("parts",
        [("self.ln_f = ", "self.w = torch.ones(n_embd, requires_grad=True); self.ln_f = ")], "nn.Parameter"),
    "unused layer": ("gradients", [("x = self.ln_f(x)", "pass")], "not used"),
    "cut off": ("gradients", [("x = self.ln_f(x)", "x = self.ln_f(x.detach())")], "detach"),
    "no gradient": ("gradients",
        [("    def forward(self, idx", "    @torch.no_grad()\n    def forward(self, idx")], "no_grad"),
    "large weights": ("loss at start", [("self.ln_f = ", "nn.init.normal_(self.token_table.weight); self.ln_f = "),
                      (HEAD, "logits = self.lm_head(x) + 3 * x @ self.token_table.weight.T\n")], "std=0.02"),
    "knows the answer": ("loss at start",
        [(HEAD, HEAD + "        if targets is not None: logits = logits + 5 * F.one_hot(targets, vocab_size)\n")],
        "targets"),
    "softmax twice": ("the loss", [(HEAD, "logits = self.lm_head(x).softmax(-1)\n")], "softmax itself"),
    "softmax in the loss": ("the loss", [(LOSS, "loss = F.cross_entropy(logits.softmax(-1), targets)\n")], "softmax itself"),
    "shifted again": ("the loss",
        [(LOSS, "loss = F.cross_entropy(logits.view(B, T, C)[:, :-1].mT, targets.view(B, T)[:, 1:])\n")],
        "shift"),
    "summed": ("the loss", [(LOSS, 'loss = F.cross_entropy(logits, targets, reduction="sum")\n')], "summed"),
    "in bits": ("the loss", [(LOSS, LOSS[:-1] + " / 0.6931471805599453\n")], "bits"),
    "wrong targets": ("the loss", [(LOSS, "loss = F.cross_entropy(logits, idx.view(-1))\n")], "idx instead of"),
    "last position": ("the loss",
        [(LOSS, "loss = F.cross_entropy(logits.view(B, T, C)[:, -1], targets.view(B, T)[:, -1])\n")], "last position"),
    "relabelled": ("the loss", [(LOSS, "loss = F.cross_entropy(logits.view(B, C, T), targets.view(B, T))\n")], "transpose"),
    "swapped in the loss": ("the loss",
        [(LOSS, "loss = F.cross_entropy(logits.view(B, T, C).transpose(0, 1).reshape(-1, C), targets)\n")], "swapped"),
    "negative": ("the loss", [(LOSS, "loss = F.nll_loss(logits, targets)\n")], "position t"),
    "cannot learn": ("one batch by heart", [(HEAD, "logits = self.lm_head(x).sigmoid()\n")], "Softmax"),
    "dropout for ever": ("same answer twice", [("self.dropout(wei)", "F.dropout(wei, 0.2)")], "training=self.training"),
    "attention over the batch": ("texts of a batch",
        [("x = self.blocks(x)", "x = self.blocks(x) + x.mean(0)")], "batch_first"),
    "nothing to look at": ("finite numbers",
        [("block_size, block_size)))", "block_size, block_size), -1))")], "at least itself"),
    "classes first": ("shapes", [("return logits, None", "return logits.transpose(1, 2), None")], "swapped"),
    "time first": ("shapes", [("return logits, None", "return logits.transpose(0, 1), None")], "batch_first"),
    "too few scores": ("shapes", [("nn.Linear(n_embd, vocab_size)", "nn.Linear(n_embd, vocab_size - 1)")], "instead of"),
    "one position": ("shapes", [("return logits, None", "return logits[:, -1], None")], "belongs in generate"),
    "only logits": ("shapes", [("return logits, None", "return logits")], "return logits, loss"),
    "loss of each token": ("shapes", [(LOSS, 'loss = F.cross_entropy(logits, targets, reduction="none")\n')], "mean"),
    "targets needed": ("shapes", [("targets=None):", "targets):")], "default"),
    "truth of a tensor": ("shapes", [("if targets is None:", "if not targets:")], "targets is None"),
    "mask not cut": ("shapes", [("self.tril[:T, :T]", "self.tril")], "tril"),
    "not contiguous": ("shapes",
        [("logits = logits.view(B * T, C)", "logits = logits.transpose(1, 2).transpose(0, 1).view(B * T, C)")],
        "contiguous"),
    "not flattened": ("shapes", [("logits = logits.view(B * T, C)", "pass")], "Flatten"),
    "text too long": ("generation", [("idx[:, -block_size:]", "idx")], "-block_size"),
    "prompt lost": ("generation", [("        return idx\n", "        return idx[:, -block_size:]\n")], "Append"),
    "ids with a point": ("generation", [("        return idx\n", "        return idx.float()\n")], "whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_found_and_named(name):
    question, changes, word = BROKEN[name]
    finding = findings_of(changed(*changes))[question]
    assert finding.verdict in (("problem",) if name != "no attention" else ("note",)), finding
    assert word in finding.cause + finding.saw, finding


@pytest.mark.parametrize("name", ["positions of ids", "no mask", "text too long", "unused layer", "dropout for ever"])
def test_a_mistake_that_stands_alone_is_told_once(name):
    findings = findings_of(changed(*BROKEN[name][1]))
    assert [f.name for f in findings.values() if f.verdict == "problem"] == [BROKEN[name][0]]


@pytest.mark.parametrize(("position", "source"), [(0, 1), (0, 15), (3, 4), (3, 9), (14, 15)])
def test_a_leak_is_named_with_its_position_and_its_source(position, source):
    line = "        self.dropout = nn.Dropout(dropout)\n"
    hole = f"        self.tril[{position}, {source}] = 1\n"
    finding = findings_of(changed((line, line + hole), ("16, 32, 2,", "16, 32, 1,")))["leak of the future"]
    assert finding.verdict == "problem"
    assert f"Position {position} (the first is 0) changes with the token at position {source}." in finding.saw


def test_a_leak_beyond_the_window_that_is_looked_at_first_is_found():
    source = changed(
        ("65, 16, 32", "65, 40, 32"),
        (
            "torch.ones(block_size, block_size))",
            "torch.ones(block_size, block_size)) + F.pad(torch.ones(10, 10), (30, 0, 30, 0))",
        ),
    )
    finding = findings_of(source)["leak of the future"]
    assert finding.verdict == "problem"
    assert "40 tokens" in finding.saw


def test_a_distance_that_only_attention_feels_is_known():
    bias = "wei = wei - 0.3 * (torch.arange(T)[:, None] - torch.arange(T)).abs()\n        "
    table = "        self.position_table = nn.Embedding(block_size, n_embd)\n"
    findings = findings_of(changed((POSITION, ""), (table, ""), (MASK, bias + MASK)))
    assert [f for f in findings.values() if f.verdict == "problem"] == []
    assert "how far away" in findings["positions"].saw


@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_missing_positions_are_found_at_every_depth(depth):
    """Deep attention under a mask can tell some order by itself, so a plain comparison would not do."""
    source = changed((POSITION, ""), ("65, 16, 32, 2", f"65, 16, 32, {depth}"))
    assert findings_of(source)["positions"].verdict == "problem"


def test_after_a_problem_that_spoils_the_rest_the_rest_is_skipped():
    verdicts = [f.verdict for f in findings_of(changed(*BROKEN["dropout for ever"][1])).values()]
    assert verdicts == ["ok", "note", "ok", "problem", *["skipped"] * 10]


def test_an_exception_is_told_with_its_line_in_the_file():
    source = changed(("wei = self.dropout(wei)", "wei = wei.nonsense()"))
    line = next(i for i, text in enumerate(source.splitlines(), 1) if "nonsense" in text)
    finding = findings_of(source)["shapes"]
    assert finding.verdict == "problem"
    assert (
        f"AttributeError: 'Tensor' object has no attribute 'nonsense' (my_gpt.py, line {line}: `wei = wei.nonsense()`)"
        in finding.saw
    )
    assert "idx of shape (3, 5)" in finding.saw


def test_a_model_that_cannot_be_copied_is_a_finding():
    model = GPT(SMALL)
    model.kept = model(torch.zeros(1, 4, dtype=torch.long))[0]
    assert [(f.name, f.verdict) for f in check(model, 20, 16)] == [("copy", "problem")]


def test_a_model_without_parameters_is_a_finding():
    class Empty(nn.Module):
        def forward(self, idx, targets=None):
            logits = nn.functional.one_hot(idx, 20).float()
            return logits, None if targets is None else nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    assert {f.name: f for f in check(Empty(), 20, 16)}["gradients"].verdict == "problem"


@pytest.mark.parametrize(("vocab_size", "block_size"), [(2, 1), (2, 2), (5, 3)])
def test_the_smallest_sizes_do_not_break_it(vocab_size, block_size):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=vocab_size, block_size=block_size, n_layer=1, n_head=1, n_embd=16))
    assert [f for f in check(model, vocab_size, block_size) if f.verdict == "problem"] == []


# ---- the file ----------------------------------------------------------------------------------------------------------


def test_the_sizes_come_from_the_model_the_file_or_the_tables():
    assert load_model(write(LECTURE))[1:] == (65, 16)
    assert load_model(write(NANO))[1:] == (65, 32)  # a config of GPT-2's sizes is made small
    assert load_model(write(BIGRAM))[1:] == (65, 8)
    assert load_model(write(OURS))[1:] == (11, 8)
    tables = changed(("vocab_size, block_size, n_embd", "V, size, n_embd"), ("vocab_size", "V"), ("block_size", "size"))
    assert load_model(write(tables))[1:] == (65, 16)


def test_what_is_looked_at_can_be_named_and_is_otherwise_found():
    both = LECTURE + BIGRAM
    assert type(load_model(write(both))[0]).__name__ == "BigramLanguageModel"  # the last
    assert type(load_model(write(both), "GPTLanguageModel")[0]).__name__ == "GPTLanguageModel"
    assert load_model(write(both + "model = GPTLanguageModel()\n"))[0].training
    made = load_model(write(both + "def make_model(block_size):\n    return GPTLanguageModel()\n"))
    assert type(made[0]).__name__ == "GPTLanguageModel"
    with pytest.raises(ValueError, match="has no model, function or class 'Nonsense'"):
        load_model(write(both), "Nonsense")


def test_a_class_is_given_the_numbers_of_the_file_and_small_ones_for_the_rest():
    wide = changed(
        (
            "def __init__(self):\n        super().__init__()\n        self.token",
            "def __init__(self, vocab_size, d_model, *, num_layers):\n"
            "        super().__init__()\n        self.sizes = d_model, num_layers\n        self.token",
        )
    )
    model, vocab_size, _ = load_model(write(wide))
    assert (vocab_size, model.sizes) == (65, (32, 2))
    model, _, _ = load_model(write(NANO + "config = GPTConfig(24, 50, 1, 2, 8)\n"))
    assert model.config.n_embd == 8
    with pytest.raises(ValueError, match=r"nothing is known of its argument 'strange'.*model = GPTLanguageModel\(\.\.\.\)"):
        load_model(write(wide.replace("d_model, *", "d_model, strange, *")))


def test_training_under_main_does_not_run_and_training_outside_is_left_out_with_a_warning():
    guarded = LECTURE + "if __name__ == '__main__':\n    raise SystemExit('trained')\n"
    assert load_model(write(guarded))[1] == 65
    loop = "model = GPTLanguageModel()\nfor i in range(10**9):\n    model(i)[1].backward()\n1 / 0\ndef later():\n    pass\n"
    with pytest.warns(UserWarning, match=r"my_gpt.py trains when it is imported \(line \d+\)"):
        assert load_model(write(LECTURE + loop))[1] == 65
    called = "def train():\n    GPTLanguageModel()(1)[1].backward()\ntrain()\n"
    with pytest.warns(UserWarning, match="trains when it is imported"):
        assert load_model(write(LECTURE + called))[1] == 65


def test_a_file_can_import_its_neighbours_and_sees_no_arguments(monkeypatch):
    monkeypatch.setattr("sys.argv", ["minigpt", "check", "--strange"])
    Path("sub").mkdir()
    write(LECTURE, "sub/my_parts_of_a_gpt.py")
    path = write("import sys\nfrom my_parts_of_a_gpt import GPTLanguageModel\nassert sys.argv[1:] == []\n", "sub/my.py")
    assert load_model(path)[1:] == (65, 16)
    assert not list(Path("sub").glob("__pycache__/my.*"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ndef f(:\n", r"my_gpt.py, line 2, is not valid Python \(invalid syntax\): `def f\(:`"),
        ("x = 1\n  y = 2\n", "line 2, is not valid Python"),
        ("x = 1\nx.nonsense\n", r"AttributeError: .* has no attribute 'nonsense' \(my_gpt.py, line 2: `x.nonsense`\)"),
        ("import no_such_package\n", r"No module named 'no_such_package' \(my_gpt.py, line 1.*Install it"),
        ("text = open('input.txt').read()\n", r"'input.txt' \(my_gpt.py, line 1.*The current folder is .*run the check in"),
        ("import sys\nsys.exit(3)\n", "ended itself"),
        ("x = 1\n", "has no model: .*class GPT"),
        ("import torch.nn as nn\nclass Net(nn.Module): pass\n", "has no model: .*class GPT"),
        ("def make_model():\n    return 3\n", r"has make_model, which does not give an nn.Module"),
        ("def make_model():\n    return 1 / 0\n", r"ZeroDivisionError: division by zero \(my_gpt.py, line 2"),
        ("import torch.nn as nn\nmodel = nn.Linear(2, 2)\n", "does not say its vocab_size; .*vocab_size = 65"),
        ("from torch.nn import *\nmodel = Sequential(Embedding(9, 4), Linear(4, 9))\n", "does not say its block_size"),
        ("import torch.nn as nn\nvocab_size = 1\nmodel = nn.Embedding(1, 1)\n", "does not say its vocab_size"),
    ],
)  # fmt: skip
def test_a_file_without_a_model_gets_a_sentence(source, message):
    with pytest.raises(ValueError, match=f"(?s){message}") as raised:
        load_model(write(source))
    assert "Traceback" not in str(raised.value)


def test_a_file_that_cannot_be_read_is_an_os_error_and_a_notebook_is_no_program():
    with pytest.raises(FileNotFoundError):
        load_model(Path("nothing.py"))
    with pytest.raises(IsADirectoryError):
        load_model(Path())
    with pytest.raises(ValueError, match="nbconvert"):
        load_model(write("{}", "my.ipynb"))
    Path("bytes.py").write_bytes(b"x = '\xff'\n")
    with pytest.raises(ValueError, match="is not valid Python"):
        load_model(Path("bytes.py"))


def test_a_file_that_reads_a_text_works_where_the_text_is():
    Path("input.txt").write_text("hello", encoding="utf-8")
    source = LECTURE.replace("device = ", "vocab_size = len(set(open('input.txt').read()))\ndevice = ", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert load_model(write(source))[1:] == (4, 16)
