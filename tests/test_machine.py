import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minigpt import GPT, RUNGS, BigramLanguageModel, GPTConfig, ModernGPT, machine
from minigpt.machine import GPU_PEAKS, available_memory, flops_per_token, peak_flops

CPU = torch.device("cpu")


def test_the_peak_of_a_processor_is_measured_and_not_lower_than_a_product_reaches():
    assert 1e8 < peak_flops(CPU) < 1e15
    assert peak_flops(CPU) == peak_flops(CPU)  # once


@pytest.mark.parametrize(("name", "peak"), [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12),
                                            ("NVIDIA A100-SXM4-40GB", 312e12), ("NVIDIA L4", 121e12),
                                            ("NVIDIA L40S", 362e12), ("NVIDIA GeForce RTX 4090", 165e12),
                                            ("NVIDIA GeForce GTX 1080", None), ("NVIDIA RTX A1000", None),
                                            ("NVIDIA L40", None), ("NVIDIA H100 NVL", None), ("NVIDIA A10", None),
                                            ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
                                            ("NVIDIA GeForce RTX 3090 Ti", None), ("NVIDIA GH200 480GB", None)])  # fmt: skip
def test_a_gpu_has_the_peak_of_its_data_sheet_or_none(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    assert peak_flops(torch.device("cuda"), in_bfloat16=True) == peak
    assert peak_flops(torch.device("cuda")) is None  # of float32 nobody says so here
    assert peak_flops(torch.device("mps")) is None
    assert all(peak > 1e13 for peak in GPU_PEAKS.values())


def test_the_flops_of_a_token_are_those_of_the_paper():
    """6 N + 12 L C T, by hand, for 2 layers of 8 channels; the output table multiplies, the others are looked up."""
    model = GPT(GPTConfig(vocab_size=11, block_size=5, n_layer=2, n_head=2, n_embd=8))
    assert flops_per_token(model, 5) == 6 * (2 * 12 * 8 * 8 + 11 * 8) + 12 * 2 * 8 * 5
    modern = ModernGPT(GPTConfig(vocab_size=11, block_size=5, n_layer=2, n_head=2, n_embd=8))
    assert flops_per_token(modern, 5) == 6 * (2 * (4 * 8 * 8 + 3 * 8 * 24) + 11 * 8) + 12 * 2 * 8 * 5
    heads = RUNGS["heads"].model(GPTConfig(vocab_size=11, block_size=5, n_head=2, n_embd=8))
    assert flops_per_token(heads, 5) == 6 * (3 * 8 * 8 + 11 * 8) + 12 * 8 * 5
    assert flops_per_token(BigramLanguageModel(11), 5) == 0


def test_the_fingerprint_of_a_machine_is_what_bits_depend_on(monkeypatch):
    monkeypatch.delenv("MKL_CBWR", raising=False)
    about = machine.fingerprint(CPU)
    assert about["torch"] == torch.__version__
    assert (about["threads"], about["MKL_CBWR"]) == ("1", "unset")
    assert about == machine.fingerprint(CPU)
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    assert machine.fingerprint(CPU) == about | {"MKL_CBWR": "AVX2"}


def test_the_fingerprint_tells_which_instructions_torch_was_allowed_to_use():
    code = "import torch; from minigpt.machine import fingerprint; print(fingerprint(torch.device('cpu'))['instructions'])"
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert told.stdout.strip() == "DEFAULT"


def test_no_more_memory_is_available_than_there_is():
    free = available_memory(CPU)
    if Path("/proc/meminfo").exists():
        assert 2**20 < free < 2**50
    else:
        assert free is None or free > 2**20


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "5000000", "memory.current": "1000000"}, 4_000_000),
        (
            {"memory.max": "5000000", "memory.current": "4000000", "memory.stat": "a 9\ninactive_file 3000000\n"},
            4_000_000,
        ),
        ({"memory.max": "max", "memory.current": "1000000"}, None),
        ({"memory/memory.limit_in_bytes": "6000000", "memory/memory.usage_in_bytes": "1000000"}, 5_000_000),
    ],
)
def test_a_container_that_allows_less_counts(monkeypatch, tmp_path, files, free):
    monkeypatch.setattr(machine, "CONTROL_GROUP", tmp_path)
    everything = available_memory(CPU)
    (tmp_path / "memory").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert available_memory(CPU) == free or (free is None and available_memory(CPU) == pytest.approx(everything, rel=0.1))
