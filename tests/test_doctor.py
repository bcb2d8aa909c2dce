"""No device here computes wrongly, so wrong ones are made: a way to take three steps is a function."""

import copy
import json

import pytest
import torch
import torch.nn as nn

from minigpt import doctor, program
from minigpt.attention import MultiHeadAttention
from minigpt.doctor import Comparison, Verdict, compare, first_look, judge, remember, way_on

CPU = torch.device("cpu")
plain = way_on(CPU, plain=True)


def with_change(change):
    """A way that changes the model before it takes the plain steps."""

    def way(model, config):
        model = copy.deepcopy(model)
        for module in model.modules():
            change(module)
        return plain(model, config)

    return way


def sharp_softmax(module):
    if isinstance(module, MultiHeadAttention):
        module.attend = lambda q, k, v, seen: type(module).attend(module, 1.2 * q, k, v, seen)


def careless_norm(module):
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.eps = 1e-2


def as_bfloat16(module):
    if isinstance(module, nn.Linear):
        module.register_forward_pre_hook(lambda _, args: (args[0].bfloat16().float(),))


def steep_gradient(model, config):
    return [
        (loss, {name: grad * (1.1 if "attn" in name else 1) for name, grad in g.items()}) for loss, g in plain(model, config)
    ]


def no_number(model, config):
    steps = plain(model, config)
    steps[-1][1]["blocks.0.ln_1.weight"][3] = float("nan")
    return steps


def not_there(model, config):
    raise NotImplementedError("The operator 'aten::lerp' is not implemented for this device.\nA second line.")


def verdict(way, dtype="float32") -> Verdict:
    return judge([compare(arch, dtype, plain, way) for arch in doctor.MODELS])


def test_this_processor_is_fit_with_all_its_shortcuts():
    comparisons = list(doctor.examine(CPU))
    assert [(c.arch, c.dtype) for c in comparisons] == [("gpt", "float32"), ("modern", "float32")]
    assert judge(comparisons) == Verdict("fit")


def test_bfloat16_is_measured_with_a_tolerance_of_its_own():
    assert verdict(way_on(CPU, "bfloat16"), "bfloat16") == Verdict("fit")


def test_a_device_as_exact_as_bfloat16_is_fit_with_a_limit():
    found = verdict(with_change(as_bfloat16))
    assert found.answer == "limited"
    assert all("no more exact than bfloat16" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (with_change(sharp_softmax), "the gradient of blocks"),
        (with_change(careless_norm), "the gradient of blocks"),
        (steep_gradient, "attn"),
        (no_number, "infinite or NaN"),
        (not_there, "it fails (NotImplementedError: The operator 'aten::lerp' is not implemented for this device.)"),
    ],
)
def test_a_device_that_computes_wrongly_is_unfit_and_the_reason_is_told(way, reason):
    found = verdict(way)
    assert found.answer == "unfit"
    assert any(reason in sentence for sentence in found.reasons)


def test_a_device_that_is_wrong_in_bfloat16_alone_is_for_float32():
    fine, wrong = Comparison("gpt", "float32", 1e-7, 1e-6), Comparison("gpt", "bfloat16", problem="it fails (X: y)")
    assert judge([fine, wrong]) == Verdict("limited", ("gpt in bfloat16: it fails (X: y). Train with --dtype float32.",))


def test_the_model_that_is_asked_stays_as_it_is_and_so_does_the_random_state():
    state = torch.get_rng_state()
    expected = compare("modern", "float32", plain, plain)
    assert (expected.loss, expected.gradient) == (0, 0)
    assert torch.equal(state, torch.get_rng_state())


# ---- the first time ----------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A device that nobody has; asked[0] is how often it was examined, and what it answers can be changed."""
    monkeypatch.setenv("MINIGPT_HOME", str(tmp_path / "cache"))
    about = {"torch": "9.9", "device": "cuda", "gpu": "Imaginary 1"}
    answers, asked = [Comparison("gpt", "float32")], []

    def examine(device):
        asked.append(device)
        return iter(answers)

    monkeypatch.setattr(doctor, "examine", examine)
    monkeypatch.setattr(doctor, "fingerprint", lambda device: about)
    monkeypatch.setattr(program, "choose_device", lambda name: "cuda")
    monkeypatch.delenv("MINIGPT_ANY_DEVICE", raising=False)
    return about, answers, asked


def test_a_device_is_examined_once_for_each_version(gpu):
    about, _, asked = gpu
    assert [program.training_device("auto") for _ in range(3)] == ["cuda"] * 3
    assert len(asked) == 1
    about["torch"] = "9.9.1"
    program.training_device("auto")
    assert len(asked) == 2


def test_a_device_that_computes_wrongly_is_refused_again_and_again_until_it_is_asked_for(gpu, monkeypatch, capsys):
    _, answers, asked = gpu
    answers[0] = Comparison("gpt", "float32", problem="a loss or a gradient is infinite or NaN")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"cuda computes wrongly.*NaN.*--device cpu.*minigpt doctor --device cuda"):
            program.training_device("auto")
    assert len(asked) == 1
    monkeypatch.setenv("MINIGPT_ANY_DEVICE", "1")
    assert program.training_device("auto") == "cuda"
    assert "against advice" in capsys.readouterr().err


def test_limits_are_told_at_each_training(gpu, capsys):
    _, answers, _ = gpu
    answers[0] = Comparison("gpt", "float32", 1e-4, 1e-2, "tok_emb.weight")
    for _ in range(2):
        program.training_device("auto")
        assert "with limits: gpt in float32" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"KEY": 3}', '{"KEY": {"answer": "perhaps", "reasons": []}}'])
def test_a_memory_that_is_spoiled_is_no_memory(gpu, tmp_path, content):
    (tmp_path / "cache").mkdir()
    key = doctor._key(torch.device("cuda"))
    (tmp_path / "cache" / doctor.REMEMBERED).write_text(content.replace("KEY", key))
    assert first_look(torch.device("cuda")) == Verdict("fit")
    assert first_look(torch.device("cuda")) == Verdict("fit")
    assert len(gpu[2]) == 1


def test_a_cache_that_cannot_be_written_is_no_obstacle(gpu, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert first_look(torch.device("cuda")) == Verdict("fit")


def test_the_processor_is_not_asked_before_each_training(gpu, monkeypatch):
    monkeypatch.setattr(program, "choose_device", lambda name: "cpu")
    assert program.training_device("cpu") == "cpu"
    assert not gpu[2]


# ---- the command -------------------------------------------------------------------------------------------------------


def test_the_doctor_says_what_there_is_and_what_to_make_of_it(run_cli):
    code, out, _ = run_cli("doctor", "--device", "cpu")
    assert code == 0
    for name in ("minigpt", "python", "torch", "device", "memory", "compiler", "cache", "disk"):
        assert f"\n{name} " in f"\n{out}"
    assert out.endswith("cpu: fit for training.\n")


def test_the_doctor_as_json_and_its_exit_code_for_a_bad_device(run_cli, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda device: iter([Comparison("gpt", "float32", 0.5, 0.5, "ln_f.weight")]))
    code, out, _ = run_cli("doctor", "--device", "cpu", "--json")
    assert code == 1
    told = json.loads(out)
    assert told["verdict"]["answer"] == "unfit"
    assert told["comparisons"][0]["where"] == "ln_f.weight"
    assert told["about"]["torch"].startswith(torch.__version__)
    code, out, _ = run_cli("doctor", "--device", "cpu")
    assert code == 1
    assert "do not use it for training" in out


def test_the_doctors_verdict_replaces_what_was_remembered(gpu):
    remember(torch.device("cuda"), Verdict("unfit", ("It was bad.",)))
    assert first_look(torch.device("cuda")).answer == "unfit"
    remember(torch.device("cuda"), Verdict("fit"))
    assert first_look(torch.device("cuda")) == Verdict("fit")
