import base64
import hashlib
import json
import math
import re
from importlib import resources

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from minigpt import GPT, BigramLanguageModel, ByteTokenizer, CharTokenizer, GPTConfig, Head
from minigpt.bigram import LanguageModel
from minigpt.explain import MOST_TOKENS, MOST_WEIGHTS, explain, page, watch
from minigpt.modern import ModernGPT
from minigpt.rungs import RUNGS
from minigpt.tokenizer import UnknownCharacter

TOKENIZER = CharTokenizer("\nabcdefgh")
TEXT = "abc\nhgf"
TEMPLATE = (resources.files("minigpt") / "explain.html").read_text("utf-8")


class Rung(LanguageModel):
    """A model of parts, as on the ladder: two heads side by side, then one more, no blocks."""

    block_size = 8

    def __init__(self, vocab_size: int = 9) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 16)
        self.heads = nn.ModuleList([Head(16, 8), Head(16, 8)])
        self.rest = nn.Sequential(Head(16, 8), nn.Linear(8, vocab_size))

    def forward(self, idx, targets=None):
        x = self.embedding(idx)
        logits = self.rest(torch.cat([head(x) for head in self.heads], dim=-1))
        return logits, None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make(kind, vocab_size: int = 9, block_size: int = 8, dropout: float = 0.0, n_head: int = 2, n_layer: int = 3):
    torch.manual_seed(0)
    if kind in (GPT, ModernGPT):
        model = kind(GPTConfig(vocab_size, block_size, n_layer, n_head, 8 * n_head, dropout))
    else:
        model = kind(vocab_size)
    for parameter in model.parameters():  # far from uniform
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


def ids(text: str = TEXT, tokenizer=TOKENIZER) -> torch.Tensor:
    return torch.tensor([tokenizer.encode(text).tolist()])


ATTENTIVE = [GPT, ModernGPT, Rung]
MODELS = [*ATTENTIVE, BigramLanguageModel]


# ---- attention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GPT, ModernGPT])
def test_the_weights_are_those_that_the_model_uses(kind, monkeypatch):
    """With the fast path replaced by the weights that were seen, the model gives the same answer."""
    model = make(kind)
    with torch.no_grad():
        with watch(model) as trace:
            expected, _ = model(ids())
        layers = iter(trace.attention.values())
        monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, *args, **kwargs: torch.cat(next(layers)) @ v)
        assert torch.allclose(model(ids())[0], expected, atol=1e-5)
        assert next(layers, None) is None


def test_the_weights_of_single_heads_are_those_that_they_use(monkeypatch):
    model = make(Rung)
    with torch.no_grad():
        with watch(model) as trace:
            expected, _ = model(ids())
        assert {name: len(heads) for name, heads in trace.attention.items()} == {"heads": 2, "rest.0": 1}
        seen = iter([weights for heads in trace.attention.values() for weights in heads])
        monkeypatch.setattr(Head, "forward", lambda head, x: next(seen) @ head.value(x))
        assert torch.allclose(model(ids())[0], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ATTENTIVE)
def test_every_row_sums_to_one_and_the_future_is_exactly_zero(kind):
    attention = explain(make(kind), TOKENIZER, TEXT).attention
    assert [len(layer) for layer in attention] == ([2, 1] if kind is Rung else [2, 2, 2])
    for layer in attention:
        for weights in map(torch.tensor, layer):
            assert weights.shape == (len(TEXT), len(TEXT))
            assert torch.allclose(weights.sum(dim=-1), torch.ones(len(TEXT)), atol=1e-5)
            assert (weights.triu(1) == 0).all()


def test_a_bigram_says_that_it_has_no_attention():
    seen = explain(make(BigramLanguageModel), TOKENIZER, TEXT)
    assert seen.attention == seen.lens == []
    assert any("no attention" in note for note in seen.notes)
    assert any("logit lens" in note for note in seen.notes)


@pytest.mark.parametrize("rung", RUNGS.values(), ids=lambda rung: rung.name)
def test_every_rung_of_the_ladder_shows_the_heads_that_it_has(rung):
    model = rung.model(GPTConfig(9, 8, n_layer=3, n_head=2, n_embd=16))
    seen = explain(model, TOKENIZER, TEXT)
    heads = {"bigram": [], "embedding": [], "positions": [], "head": [1], "heads": [2], "feedforward": [2]}
    assert [len(layer) for layer in seen.attention] == heads.get(rung.name, [2, 2, 2])
    assert bool(seen.attention) == (not any("no attention" in note for note in seen.notes))
    assert len(seen.lens) == (4 if isinstance(model, GPT) else 0)


def test_a_gpt_has_nothing_to_excuse():
    assert explain(make(GPT), TOKENIZER, TEXT).notes == []


# ---- surprise, what comes next, the lens -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_the_mean_surprise_is_the_loss(kind):
    model = make(kind)
    seen = explain(model, TOKENIZER, TEXT)
    with torch.no_grad():
        _, loss = model(ids()[:, :-1], ids()[:, 1:])
    assert seen.surprise[0] is None
    assert seen.mean_surprise == pytest.approx(loss.item(), abs=1e-5)
    assert sum(seen.surprise[1:]) / (len(TEXT) - 1) == pytest.approx(seen.mean_surprise, abs=1e-5)
    assert seen.bits_per_char == pytest.approx(loss.item() / math.log(2), abs=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_what_comes_next_is_the_models_answer_likeliest_first(kind):
    model = make(kind)
    seen = explain(model, TOKENIZER, TEXT, top=4)
    with torch.no_grad():
        probs = model(ids())[0][0].softmax(dim=-1)
    for row, guesses, entropy in zip(probs, seen.next, seen.entropy, strict=True):
        best = row.topk(4)
        assert [guess["token"] for guess in guesses] == [TOKENIZER.chars[i] for i in best.indices]
        assert [guess["probability"] for guess in guesses] == pytest.approx(best.values.tolist(), abs=1e-5)
        assert entropy == pytest.approx(torch.distributions.Categorical(row).entropy().item(), abs=1e-5)
    assert len(explain(model, TOKENIZER, TEXT, top=99).next[0]) == TOKENIZER.vocab_size


@pytest.mark.parametrize("kind", [GPT, ModernGPT])
def test_the_last_layer_of_the_lens_is_the_answer_and_the_first_the_embedding(kind):
    model = make(kind)
    seen = explain(model, TOKENIZER, TEXT)
    assert [answers["layer"] for answers in seen.lens] == [0, 1, 2, 3]
    last = seen.lens[-1]
    assert last["token"] == [guesses[0]["token"] for guesses in seen.next]
    assert last["probability"] == [guesses[0]["probability"] for guesses in seen.next]
    assert last["next_probability"][:-1] == pytest.approx([math.exp(-s) for s in seen.surprise[1:]], abs=1e-5)
    assert last["next_probability"][-1] is None
    with torch.no_grad():
        first = model.lm_head(model.ln_f(model.embed(ids())))[0].softmax(dim=-1).max(dim=-1)
        second = model.lm_head(model.ln_f(model.blocks[0](model.embed(ids()))))[0].softmax(dim=-1).max(dim=-1)
    for answers, expected in zip(seen.lens, (first, second), strict=False):
        assert answers["token"] == [TOKENIZER.chars[i] for i in expected.indices]
        assert answers["probability"] == pytest.approx(expected.values.tolist(), abs=1e-5)


# ---- the model is only watched -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_the_model_is_as_before(kind, training):
    model = make(kind).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    explain(model, TOKENIZER, TEXT)
    assert model.training == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(random_state, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_hooks_go_even_if_something_breaks():
    model = make(GPT, vocab_size=3).train()  # has no embedding for most of the text
    with pytest.raises(IndexError):
        explain(model, TOKENIZER, TEXT)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_the_same_text_gives_the_same_explanation_whatever_the_dropout():
    model = make(GPT, dropout=0.9).train()
    assert explain(model, TOKENIZER, TEXT) == explain(model, TOKENIZER, TEXT)
    assert explain(model, TOKENIZER, TEXT) == explain(make(GPT), TOKENIZER, TEXT)


# ---- the text ----------------------------------------------------------------------------------------------------------


def test_a_byte_that_is_no_whole_character_is_written_as_a_number():
    model = make(GPT, vocab_size=256)
    seen = explain(model, ByteTokenizer(), "a\\né")
    assert seen.tokens == ["a", "\\", "n", "\\xc3", "\\xa9"]
    assert seen.text == "a\\né"
    assert seen.bits_per_char == pytest.approx(sum(seen.surprise[1:]) / 3 / math.log(2), abs=1e-4)  # 3 characters of 4 bytes
    cut = explain(make(GPT, vocab_size=256, block_size=1), ByteTokenizer(), "é")
    assert (cut.tokens, cut.text, cut.mean_surprise, cut.bits_per_char) == (["\\xa9"], "\ufffd", None, None)


def test_the_replacement_character_of_an_alphabet_is_itself():
    assert explain(make(GPT, vocab_size=2), CharTokenizer("a\ufffd"), "a\ufffd").tokens == ["a", "\ufffd"]


def test_one_character_has_no_surprise():
    seen = explain(make(GPT), TOKENIZER, "a")
    assert (seen.surprise, seen.mean_surprise, seen.bits_per_char) == ([None], None, None)
    assert seen.attention[0][0] == [[1.0]]


@pytest.mark.parametrize(
    ("text", "top", "error", "message"),
    [
        ("", 5, ValueError, "no text"),
        ("abcx", 5, UnknownCharacter, "'x'.* at position 3 "),
        ("abc", 0, ValueError, "top is 0"),
    ],
)
def test_what_cannot_be_explained_is_said_in_plain_words(text, top, error, message):
    with pytest.raises(error, match=message):
        explain(make(GPT), TOKENIZER, text, top)


def test_damaged_weights_are_said_in_plain_words():
    model = make(GPT)
    nn.init.constant_(model.ln_f.weight, float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        explain(model, TOKENIZER, TEXT)


def test_of_a_long_text_the_end_is_explained_and_a_note_says_so():
    model, text = make(GPT), "abcdefgh" * 4 + "hgfe"
    seen = explain(model, TOKENIZER, text)
    assert seen.text == "efghhgfe"
    assert seen.notes == ["The text has 36 tokens; shown are the last 8, all that this model reads at once."]
    assert explain(model, TOKENIZER, "efghhgfe").surprise == seen.surprise
    assert explain(model, TOKENIZER, "efghhgfe").notes == []


def test_a_page_does_not_grow_without_end():
    seen = explain(BigramLanguageModel(9, block_size=1000), TOKENIZER, "abcd" * 200)
    assert len(seen.tokens) == MOST_TOKENS
    assert "as many as fit on a page" in seen.notes[0]
    many_heads = explain(make(GPT, block_size=300, n_head=24, n_layer=2), TOKENIZER, "abcd" * 100)
    assert 48 * len(many_heads.tokens) ** 2 <= MOST_WEIGHTS < 48 * (len(many_heads.tokens) + 1) ** 2
    widest = explain(make(GPT, block_size=256, n_head=6, n_layer=6), TOKENIZER, "abcd" * 64)
    assert len(widest.tokens) == 256
    assert len(page(widest, "")) < 3.5e6


# ---- as JSON and as a page ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_an_explanation_survives_json(kind):
    data = explain(make(kind), TOKENIZER, TEXT).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert list(data)[:5] == ["model", "parameters", "vocab_size", "text", "tokens"]
    assert (data["model"], data["text"]) == (kind.__name__, TEXT)
    assert data["parameters"] == sum(p.numel() for p in make(kind).parameters())
    for number in re.findall(r"\d+\.(\d+)", json.dumps(data["attention"])):
        assert len(number) <= 6
    assert "-0.0" not in json.dumps(data)


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_a_page_holds_the_explanation_and_the_past_of_every_head():
    seen = explain(make(Rung), TOKENIZER, TEXT)
    data = data_of(page(seen, "mine"))
    T = len(TEXT)
    assert data["attention"]["heads"] == [2, 1]
    weights = memoryview(base64.b64decode(data["attention"]["weights"])).cast("H")  # little-endian, as this machine
    expected = [head[i][j] for layer in seen.attention for head in layer for i in range(T) for j in range(i + 1)]
    assert [w / 65535 for w in weights] == pytest.approx(expected, abs=1e-5)
    assert {**data, "attention": seen.attention} == seen.to_dict()


def test_the_policy_allows_the_two_blocks_of_the_page_and_nothing_else():
    html = page(explain(make(GPT), TOKENIZER, TEXT), "mine")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', html)[1]
    hashes = {}
    for tag in ("style", "script"):
        block = re.search(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]
        hashes[tag] = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert html.index("Content-Security-Policy") < html.index("<style>")


def test_the_page_has_no_way_to_make_markup_of_text_or_to_load_anything():
    ways = r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|srcdoc|eval\(|Function\(|setHTML"
    assert not re.search(ways, TEMPLATE)
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|<link|<img|<iframe| src=| on[a-z]+=| style=", TEMPLATE)


@pytest.mark.parametrize("title", ["</title><script>alert(1)</script>", "__DATA__ __POLICY__", 'a" & <b>', "\ud800"])
def test_titles_and_texts_cannot_leave_their_place(title):
    text = "</script><script>alert(1)</script><!--<script>\u2028\u2029&__TITLE__"
    tokenizer = CharTokenizer.train(text)
    html = page(explain(make(GPT, tokenizer.vocab_size, block_size=99), tokenizer, text), title)
    html.encode("utf-8")
    assert html.count("<script") == 2
    assert html.count("</script") == 2
    assert html.count("<title>") == html.count("</title>") == 1
    assert "<!--<script" not in html
    assert data_of(html)["tokens"] == list(text)


def test_a_page_is_the_same_each_time():
    pages = [page(explain(make(GPT), TOKENIZER, TEXT), "mine") for _ in range(2)]
    assert pages[0] == pages[1]
