"""The page of explain.py in a real browser: Chromium, driven by playwright."""

import re
import shutil
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from minigpt import GPT, BigramLanguageModel, ByteTokenizer, CharTokenizer, GPTConfig
from minigpt.explain import explain, page
from minigpt.modern import ModernGPT

TEXT = "To be, or not\nto be"
TOKENIZER = CharTokenizer.train(TEXT)
ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>"
BY_HEART = f"{ATTACK} is what I know. {ATTACK}"


@pytest.fixture(scope="module")
def chromium():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("needs playwright to look at the page: pip install playwright")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not path:
        pytest.skip("needs a browser to look at the page: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(chromium, tmp_path):
    """`look(html, width=360)` -> the open page. In the end: nothing was loaded, and nobody complained."""
    problems, contexts = [], []

    def open_page(html: str, width: int = 1200, **options):
        file = tmp_path / f"{len(contexts)}.html"
        file.write_text(html, encoding="utf-8")
        context = chromium.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)

        def only_the_file(route):
            if route.request.url == file.as_uri():
                return route.continue_()
            problems.append(f"asked for {route.request.url}")
            return route.abort()

        context.route("**/*", only_the_file)
        view = context.new_page()
        view.set_default_timeout(10_000)
        view.on("console", lambda message: problems.append(f"console: {message.text}"))
        view.on("pageerror", lambda error: problems.append(f"error: {error}"))
        view.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        complain = "e => console.error('CSP: ' + e.violatedDirective)"
        view.add_init_script(f"addEventListener('securitypolicyviolation', {complain})")
        view.goto(file.as_uri())
        return view

    open_page.problems = problems
    yield open_page
    for context in contexts:
        context.close()
    assert not problems


def make(kind, tokenizer=TOKENIZER, block_size: int = 64, n_layer: int = 2, n_head: int = 3):
    torch.manual_seed(0)
    if kind is BigramLanguageModel:
        return kind(tokenizer.vocab_size, block_size)
    model = kind(GPTConfig(tokenizer.vocab_size, block_size, n_layer, n_head, 8 * n_head))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def explained(kind=GPT, text: str = TEXT, tokenizer=TOKENIZER, **sizes):
    seen = explain(make(kind, tokenizer, **sizes), tokenizer, text)
    return seen, page(seen, "runs/mine")


def selected(view) -> int:
    return int(view.locator("#text .char.now").get_attribute("data-i"))


def strengths(view, name: str) -> list[float]:
    """How strong a colour is at each character: --heat is surprise, --seen is attention."""
    return view.locator("#text .char").evaluate_all("(all, name) => all.map(c => +c.style.getPropertyValue(name))", name)


def written(weight: float) -> str:
    return f"{weight:.2f}" if weight >= 0.005 else "<0.01"


# ---- what it shows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GPT, ModernGPT])
def test_a_page_shows_the_text_every_head_and_every_layer(look, kind):
    seen, html = explained(kind)
    view = look(html)
    assert view.title() == view.locator("h1").inner_text() == "runs/mine"
    facts = view.locator("#facts").inner_text()
    assert f"{seen.parameters:,}" in facts
    assert "19 characters" in facts
    assert "2 layers, 6 heads" in facts
    assert f"{seen.mean_surprise:.2f} nats/character" in facts
    assert f"{seen.bits_per_char:.2f} bits/character" in facts
    assert view.locator("#text").inner_text() == TEXT.replace("\n", "⏎\n")
    assert view.locator("#overview canvas").count() == 2 * 3
    assert view.locator("#table tbody tr").count() == 1 + 3 + 1  # what was read; the embedding and two layers; what came
    assert view.locator("#table tr").nth(3).locator("td").all_inner_texts() == [
        token.replace(" ", "␣").replace("\n", "⏎") for token in seen.lens[2]["token"]
    ]
    assert "Attention is not explanation: it shows where a head reads, not why." in view.locator("main").inner_text()
    assert not view.locator("#notes").is_visible()


def test_at_first_the_most_surprising_character_is_shown(look):
    seen, html = explained()
    view = look(html)
    assert selected(view) == int(np.argmax(seen.surprise[1:])) + 1
    colours = strengths(view, "--heat")
    assert max(colours) == colours[selected(view)]
    assert colours[0] == 0


def test_a_character_under_the_pointer_tells_its_surprise_and_what_was_expected(look):
    seen, html = explained()
    view = look(html)
    before = selected(view)
    view.locator("#text .char").nth(5).hover()
    detail = view.locator("#detail").inner_text()
    assert f"Surprise {seen.surprise[5]:.2f} nats" in detail
    assert f"entropy {seen.entropy[5]:.2f} nats" in detail
    for title, i in (("Expected in its place", 4), ("Expected after it", 5)):
        bars = view.locator(".part", has_text=title).locator(".bar")
        token, probability = seen.next[i][0].values()
        assert bars.first.locator(".what").inner_text() == token.replace(" ", "␣").replace("\n", "⏎")
        assert float(bars.first.locator(".much").inner_text()[:-2]) == pytest.approx(100 * probability, abs=0.51)
        assert bars.count() in (5, 6)  # one more for what came, if it is not among the five
    shown = view.locator("#readout").inner_text()
    assert shown.startswith("‘,’ looks most at ")
    most = sorted(seen.attention[0][0][5], reverse=True)[:3]
    assert re.findall(r"<?\d\.\d\d", shown) == list(map(written, most))
    seen_at = strengths(view, "--seen")
    assert np.argmax(seen_at) == np.argmax(seen.attention[0][0][5])
    assert seen_at[6:] == [0] * 13
    view.mouse.move(5, 5)
    assert selected(view) == before  # only a click or the focus stays
    view.locator("#text .char").nth(5).click()
    view.mouse.move(5, 5)
    assert selected(view) == 5


@pytest.mark.parametrize(("head", "i", "j"), [(0, 7, 3), (4, 18, 0), (5, 4, 4), (2, 3, 9)])
def test_the_map_under_the_pointer_gives_the_number(look, head, i, j):
    seen, html = explained()
    view = look(html)
    view.locator("#overview button").nth(head).click()
    assert view.locator("#head").inner_text() == f"Layer {head // 3 + 1}, head {head % 3 + 1}"
    canvas = view.locator("#map")
    canvas.scroll_into_view_if_needed()
    box, T = canvas.bounding_box(), len(TEXT)
    step = (box["width"] - 20) / T
    view.mouse.move(box["x"] + 20 + (j + 0.5) * step, box["y"] + 20 + (i + 0.5) * step)
    a, b = (f"‘{TEXT[k]}’".replace(" ", "␣").replace("\n", "⏎") for k in (i, j))
    shown = view.locator("#readout").inner_text()
    if j > i:
        assert shown == f"{a} cannot look at {b}: that is in the future"
    else:
        weight = written(seen.attention[head // 3][head % 3][i][j])
        assert shown == f"{a} looks at {'itself' if i == j else b} {weight}"
    assert selected(view) == i


def test_the_lens_under_the_pointer_gives_the_numbers(look):
    seen, html = explained()
    view = look(html)
    view.locator("#table tr").nth(2).locator("td").nth(4).hover()
    shown = view.locator("#lens-readout").inner_text()
    answers = seen.lens[1]
    assert shown.startswith("After layer 1, having read ‘e’: ")
    percents = [float(number) for number in re.findall(r"([\d.]+) %", shown)]
    assert percents == pytest.approx([100 * answers["probability"][4], 100 * answers["next_probability"][4]], abs=0.51)


def test_a_bigram_says_that_it_has_no_attention(look):
    view = look(explained(BigramLanguageModel)[1])
    assert "This model has no attention" in view.locator("#notes").inner_text()
    assert not view.locator("#attention").is_visible()
    assert not view.locator("#lens").is_visible()
    assert view.locator("#text .char").count() == len(TEXT)
    view.keyboard.press("j")  # nothing to move
    view.keyboard.press("Home")


def test_a_single_character_and_bytes_have_a_page_too(look):
    assert "Nothing came before it" in look(explained(text="T")[1]).locator("#detail").inner_text()
    tokenizer = ByteTokenizer()
    view = look(explained(text="é\u202e\n", tokenizer=tokenizer)[1])
    assert view.locator("#text .char").all_inner_texts() == ["\\xc3", "\\xa9", "\\xe2", "\\x80", "\\xae", "⏎"]
    signs = CharTokenizer.train("a\u202e\u0301\t")  # what would turn or hide the text around it
    view = look(explained(text="a\u202e\u0301\t", tokenizer=signs)[1])
    assert view.locator("#text .char").all_inner_texts() == ["a", "U+202E", "◌\u0301", "⇥"]


# ---- how it is used ----------------------------------------------------------------------------------------------------


def press(view, keys: Iterable[str]) -> None:
    for key in keys:
        view.keyboard.press(key)


def test_the_keyboard_moves_the_character(look):
    view = look(explained()[1])
    at = selected(view)
    press(view, ["ArrowLeft", "ArrowLeft"])
    assert selected(view) == at - 2
    press(view, ["ArrowRight"])
    assert selected(view) == at - 1
    view.locator("#text .char").nth(3).click()
    press(view, ["ArrowDown"])  # the second line
    assert selected(view) == 14 + 3
    assert view.evaluate("document.activeElement.dataset.i") == "17"
    press(view, ["ArrowUp"])
    assert selected(view) == 3
    press(view, ["Home", "ArrowLeft"])
    assert selected(view) == 0
    press(view, ["End", "ArrowRight"])
    assert selected(view) == len(TEXT) - 1
    assert view.locator("#text [tabindex='0']").count() == 1


def test_the_keyboard_moves_the_head(look):
    view = look(explained()[1])
    heads = {}
    for keys in ("]", "l", "]", "[", "j", "h", "k", "h", "h", "["):
        press(view, keys)
        heads[len(heads)] = view.locator("#head").inner_text().replace("Layer ", "").replace(" head ", "")
    assert list(heads.values()) == ["1,2", "1,3", "2,1", "1,3", "2,3", "2,2", "1,2", "1,1", "1,1", "2,3"]
    assert view.locator("#overview [aria-checked='true']").get_attribute("aria-label") == "Layer 2, head 3"
    view.locator("#overview button").first.focus()
    press(view, ["ArrowDown", "ArrowRight"])
    assert view.locator("#head").inner_text() == "Layer 2, head 3"  # it was there, and stays at the edge
    press(view, ["ArrowUp", "ArrowLeft"])
    assert view.evaluate("document.activeElement.ariaLabel") == "Layer 1, head 2"


def test_the_question_mark_shows_the_keys(look):
    view = look(explained()[1])
    at = selected(view)
    press(view, ["?"])
    assert view.locator("#help").is_visible()
    press(view, ["ArrowLeft"])  # not behind the help
    press(view, ["Escape"])
    assert not view.locator("#help").is_visible()
    view.locator("#help-button").click()
    view.locator("#help button").click()
    assert not view.locator("#help").is_visible()
    assert selected(view) == at


@pytest.mark.parametrize("kind", [GPT, BigramLanguageModel])
def test_a_narrow_screen_has_nothing_beside_it(look, kind):
    seen, _ = explained(kind, text=TEXT * 10, n_head=12, block_size=200)
    view = look(page(seen, "a-very-long-name-of-a-run-without-any-place-to-break-it-" * 2), width=360)
    assert view.evaluate("document.documentElement.scrollWidth") <= 360


def test_dark_and_light_are_the_systems_choice(look):
    _, html = explained()
    paper = "getComputedStyle(document.body).backgroundColor"
    drawn = "document.querySelector('#overview canvas').toDataURL()"
    view = look(html, color_scheme="light")
    light = view.evaluate(paper), view.evaluate(drawn)
    view.emulate_media(color_scheme="dark")
    view.wait_for_timeout(100)
    dark = view.evaluate(paper), view.evaluate(drawn)
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    assert sum(map(int, re.findall(r"\d+", dark[0]))) < 100 < sum(map(int, re.findall(r"\d+", light[0])))


def test_without_motion_nothing_moves(look):
    duration = "getComputedStyle(document.querySelector('.char')).transitionDuration"
    assert look(explained()[1], reduced_motion="reduce").evaluate(duration) == "0s"


# ---- text never becomes markup -----------------------------------------------------------------------------------------


def assert_harmless(view) -> None:
    """Every part of the page was looked at, and the document has its own elements only."""
    for i in range(min(view.locator("#text .char").count(), 12)):
        view.locator("#text .char").nth(i).hover()
    press(view, ["ArrowRight", "j", "l", "?"])
    assert view.locator("script").count() == 2
    assert view.locator("img, iframe, object, embed, link, a, b script").count() == 0


def test_a_model_that_knows_markup_by_heart_cannot_run_it(look):
    tokenizer = CharTokenizer.train(BY_HEART)
    torch.manual_seed(0)
    model = GPT(GPTConfig(tokenizer.vocab_size, len(BY_HEART), n_layer=1, n_head=2, n_embd=32, dropout=0.0))
    ids = torch.tensor([tokenizer.encode(BY_HEART).tolist()])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        _, loss = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen = explain(model, tokenizer, BY_HEART)
    assert seen.mean_surprise < 0.2
    assert "".join(guesses[0]["token"] for guesses in seen.next)[-len(ATTACK) :][:-1] == ATTACK[1:]
    view = look(page(seen, ATTACK))
    assert view.locator("#text").inner_text() == BY_HEART
    assert view.title() == view.locator("h1").inner_text() == ATTACK
    assert_harmless(view)


def test_a_vocabulary_of_markup_cannot_run_it(look):
    class Words:
        """A tokenizer whose every token is an attack."""

        words = (ATTACK, "</script>", "<!--<script>", "</title></style>", "\u2028", "__DATA__", "&lt;b&gt;", '"${alert(1)}')
        vocab_size = len(words)

        def encode(self, text, unknown="error"):
            return np.array([self.words.index(word) for word in text.split("\0")])

        def decode(self, ids):
            return "".join(self.words[i] for i in ids)

        def count_characters(self, ids):
            return len(self.decode(ids))

    tokenizer = Words()
    seen = explain(make(GPT, tokenizer), tokenizer, "\0".join(tokenizer.words))
    assert seen.tokens == list(tokenizer.words)
    view = look(page(seen, "</title><script>alert(1)</script>"))
    assert view.locator("#text .char").first.inner_text() == ATTACK
    assert "8 tokens" in view.locator("#facts").inner_text()
    assert_harmless(view)


def test_the_policy_stops_what_is_put_in_by_hand(look):
    """The second wall: even markup that got into the page would neither run nor load anything."""
    foreign = "<script>document.title = 'ran'</script><img src=https://example.com/x onerror=alert(1)><p style='color:red'>"
    view = look(explained()[1].replace("<footer>", f"{foreign}<footer>"))
    assert view.title() == "runs/mine"
    complaints = "\n".join(look.problems)
    assert "asked for" not in complaints
    for directive in ("script-src-elem", "img-src", "script-src-attr", "style-src-attr"):
        assert f"CSP: {directive}" in complaints
    look.problems.clear()
