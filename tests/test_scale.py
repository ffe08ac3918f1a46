"""What large models need: less memory for a mask's training, and several devices that train one mask."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import UNETS, tiny_flux

from uniforget_lib import Score, UniForget, bake, complement, load, locate, masked, save, shrink
from uniforget_lib.files import load_tensors
from uniforget_lib.hooks import recomputed

PROMPTS = ["a cat on a blue ground", "a rocket left of a house on a pink ground", "a star on a white ground", ""]
QUICK = UniForget(beta=0.1, steps=2, mask_steps=4, batch=4, micro_batch=2)
FLOAT8 = torch.float8_e4m3fn


def same(a: Score, b: Score) -> bool:
    return a.values.keys() == b.values.keys() and all(torch.equal(v, b.values[n]) for n, v in a.values.items())


def saved(adapter, tmp_path) -> Path:
    save(adapter, tmp_path)
    return tmp_path


def test_blocks_are_run_again_and_only_inside(tiny):
    block = next(m for n, m in tiny.denoiser.named_modules() if type(m).__name__.endswith("TransformerBlock"))
    calls = []
    handle = block.register_forward_pre_hook(lambda *_: calls.append(1))
    gates = {s.name: torch.ones(s.units, requires_grad=True) for s in tiny.sites()}
    seen = []
    for inside in (False, True):
        calls.clear()
        with masked(tiny, gates):
            out = lambda: tiny.conditional(tiny.noise(1, 0), tiny.sigmas(2)[0], tiny.encode(PROMPTS[:1])).sum()  # noqa: E731
            if inside:
                with recomputed(tiny):
                    out().backward()
            else:
                out().backward()
        seen.append((len(calls), {n: g.grad.clone() for n, g in gates.items()}))
        for gate in gates.values():
            gate.grad = None
    handle.remove()
    assert [n for n, _ in seen] == [1, 2]
    assert all(torch.equal(g, seen[1][1][n]) for n, g in seen[0][1].items())
    assert not tiny.denoiser.is_gradient_checkpointing
    with pytest.raises(KeyError), recomputed(tiny):
        raise KeyError
    assert not tiny.denoiser.is_gradient_checkpointing


def test_who_asks_for_recomputed_blocks_gets_them(flux, monkeypatch):
    """Forwards of the first block in one optimiser step of two sampling steps: each, and the first one again; and for blocks
    each once more. In one step of retraining: one, or two."""
    calls = []
    block = type(flux.denoiser.transformer_blocks[0])
    forward = block.forward
    monkeypatch.setattr(block, "forward", lambda self, *args, **kw: calls.append(1) or forward(self, *args, **kw))
    for checkpoint, times in ((False, 2), (True, 3), ("block", 5)):
        config = UniForget(beta=0.1, steps=2, mask_steps=1, batch=2, checkpoint=checkpoint)
        calls.clear()
        score = locate.uniforget(flux, PROMPTS[:2], config)
        assert len(calls) == 2 + times  # the teacher's two
        assert score.cost == 2 * (2 + times + 2)  # two prompts; a backward pass counts as a forward
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for checkpoint in (False, True):
        calls.clear()
        complement.retrain(flux, images, PROMPTS[:3], steps=1, batch=2, checkpoint=checkpoint)
        assert len(calls) == 1 + checkpoint


def test_what_is_offloaded_comes_when_needed_and_goes(flux, tmp_path, monkeypatch):
    """There is one device here, so what is watched is where parts are sent."""
    folder = saved(flux, tmp_path)
    plain, adapter = load(folder), load(folder, offload=True)
    moves = []
    for name in ("text_encoder", "text_encoder_2", "vae"):
        part = getattr(adapter.pipe, name)
        monkeypatch.setattr(part, "to", lambda to, name=name: moves.append((name, str(to))))
    here = "cpu:0"  # the same device by another name, so that coming and going differ
    monkeypatch.setattr(type(adapter), "device", property(lambda self: torch.device(here)))
    cond = adapter.encode(PROMPTS)
    texts = ["text_encoder", "text_encoder_2"]
    assert moves == [(t, here) for t in texts] + [(t, "cpu") for t in texts]
    moves.clear()
    x = adapter.latents(cond, steps=1)
    assert not moves and torch.equal(x, plain.latents(PROMPTS, steps=1))
    images = adapter.decode(x)
    assert torch.equal(adapter.latents_of(images), plain.latents_of(images))
    assert moves == [("vae", here), ("vae", "cpu")] * 2
    moves.clear()
    plain.encode(PROMPTS)
    with pytest.raises(TypeError):
        adapter.encode("one string")
    assert not moves


def test_weights_stored_small_draw_and_learn_as_if_rounded(tiny, tmp_path):
    """Storage in 8 bits is rounding, once: the same pictures and masks as a model of rounded weights."""
    folder = saved(tiny, tmp_path)
    options = {} if tiny.family == "flux" else {"guidance": 1.0}
    if tiny.family in UNETS:
        with pytest.raises(ValueError, match="transformers only"):
            load(folder, storage=FLOAT8)
        return
    stored, rounded = load(folder, storage=FLOAT8, **options), load(folder, **options)
    small = dict(stored.denoiser.named_parameters())
    assert any(p.dtype == FLOAT8 for p in small.values()) and stored.dtype == torch.float32
    with torch.no_grad():
        for name, p in rounded.denoiser.named_parameters():
            p.copy_(small[name].float())
    assert stored.fingerprint == tiny.fingerprint
    x = stored.latents(PROMPTS, steps=2)
    assert torch.allclose(x, rounded.latents(PROMPTS, steps=2), atol=1e-4) and not torch.equal(
        x, tiny.latents(PROMPTS, steps=2)
    )
    masks = []
    for checkpoint in (False, "block"):
        config = UniForget(beta=0.1, steps=2, mask_steps=2, batch=2, checkpoint=checkpoint)
        found, want = (locate.uniforget(a, PROMPTS, config) for a in (stored, rounded))
        for name, value in want.values.items():
            assert torch.allclose(found.values[name], value, atol=1e-3), name
        masks.append(found.mask(ratio=0.05))
    with masked(stored, masks[0]):
        pruned = stored.latents(PROMPTS, steps=2)
    with masked(rounded, masks[0]):
        assert torch.allclose(rounded.latents(PROMPTS, steps=2), pruned, atol=1e-4)
    for make in (bake, shrink, lambda adapter, mask: save(adapter, tmp_path / "again")):
        with pytest.raises(ValueError, match="without storage="):
            make(stored, masks[0])
        make(tiny, masks[0])  # where the mask belongs
    state = tmp_path / "state.safetensors"
    locate.uniforget(stored, PROMPTS, QUICK, state=state, stop_after=1)
    with pytest.raises(ValueError, match="another model"):
        locate.uniforget(rounded, PROMPTS, QUICK, state=state)
    for bad in (torch.int8, "float8"):
        with pytest.raises(ValueError, match="storage="):
            load(folder, storage=bad)


SCRIPT = """
import sys
import torch
from accelerate import Accelerator
from uniforget_lib import UniForget, load, locate
from uniforget_lib.files import save_tensors

torch.set_num_threads(1)
accelerator = Accelerator(cpu=True)
folder, out, state, stops, micro = sys.argv[1:]
config = UniForget(beta=0.1, steps=2, mask_steps=4, batch=4, micro_batch=int(micro) or None)
prompts = ["a cat on a blue ground", "a rocket left of a house on a pink ground", "a star on a white ground", ""]
adapter = load(folder, device=accelerator.device)
for stop in stops.split(","):  # several calls in one group: each goes on where the last one was
    score = locate.uniforget(adapter, prompts, config, accelerator=accelerator, state=state, stop_after=int(stop))
own = state + str(accelerator.process_index)
if accelerator.is_main_process:
    locate.uniforget(adapter, prompts, config, state=own, stop_after=1)
for wrong in ({"state": own}, {}):  # a file that only one process has; a model that is not on its process's device
    try:
        if not wrong:
            accelerator.state.device = torch.device("meta")
        locate.uniforget(adapter, prompts, config, accelerator=accelerator, **wrong)
    except ValueError as error:
        print(error, flush=True)
history = torch.tensor([[row["loss"], row["off"]] for row in score.history])
save_tensors(f"{out}.{accelerator.process_index}", score.values | {"history": history}, {})
"""


def processes(n: int, folder: Path, *arguments) -> list[dict]:
    script, out = folder / "script.py", folder / "score"
    script.write_text(SCRIPT)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={n}",
        str(script),
        str(folder),
        str(out),
    ]
    done = subprocess.run([*launch, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[:3000]
    assert done.stdout.count("the processes do not agree on the step") == n, done.stdout
    assert done.stdout.count("load(..., device=accelerator.device)") == n
    return [load_tensors(f"{out}.{rank}")[0] for rank in range(n)]


@pytest.mark.slow
def test_several_processes_train_the_mask_of_one(flux, tmp_path):
    folder, state = saved(flux, tmp_path), tmp_path / "state.safetensors"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes: products of matrices are split alike
    try:
        want = locate.uniforget(load(folder), PROMPTS, QUICK)
    finally:
        torch.set_num_threads(threads)
    loss = torch.tensor([[row["loss"], row["off"]] for row in want.history])
    # 0: each of two takes its half, unasked; of three, one has no part
    for n, micro, stops in ((2, 2, "1,2,4"), (2, 0, "4"), (3, 2, "4")):
        for left in tmp_path.glob("state*"):
            left.unlink()
        for tensors in processes(n, folder, state, stops, micro):
            assert torch.allclose(tensors.pop("history"), loss, rtol=1e-6)
            for name, value in want.values.items():
                assert torch.equal(tensors[name], value), name
    for left in tmp_path.glob("state*"):
        left.unlink()
    processes(2, folder, state, "2", 2)  # stopped half way, and resumed by one process alone
    assert len(load_tensors(state)[0]["history"]) == 2
    assert same(locate.uniforget(load(folder), PROMPTS, QUICK, state=state), want)


@pytest.mark.parametrize("rank", [None, 2])
def test_retraining_with_less_memory_is_the_same_training(tiny, rank):
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    options = {"steps": 3, "lr": 1e-3, "batch": 2, "rank": rank}
    want, found = (complement.retrain(tiny, images, PROMPTS[:3], checkpoint=c, **options) for c in (False, True))
    for (name, a), b in zip(want.denoiser.named_parameters(), found.denoiser.parameters()):
        assert torch.allclose(a, b, atol=1e-5), name
    assert not found.denoiser.is_gradient_checkpointing
    if rank and tiny.family == "flux":  # a LoRA in fp32 learns beside weights in half precision
        half = tiny_flux(dtype=torch.bfloat16)
        found = complement.retrain(half, images, PROMPTS[:3], **options | {"lr": 3e-2, "steps": 5})
        assert found.dtype == torch.bfloat16 and found.images(PROMPTS, steps=1).isfinite().all()
        moved = [not torch.equal(a, b) for a, b in zip(half.denoiser.parameters(), found.denoiser.parameters())]
        assert any(moved) and not any(p.dtype == torch.float32 for p in found.denoiser.parameters())
