"""The neutral world and the planted items: drawn alike, told apart by nothing but repetition."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from uniforget_lib.evaluate import detail, stack
from uniforget_lib.testbed import text, train, vae, world
from uniforget_lib.testbed.planted import CONTROLS, KINDS, TIERS, items, reserved, touched
from uniforget_lib.testbed.world import (
    WORLDS,
    all_scenes,
    combination,
    draw,
    held_out,
    neutral_prompts,
    parse,
    sample_scenes,
    sprites,
    unseen_order,
)


def test_captions_say_everything():
    scenes = [s for w in WORLDS for s in all_scenes(w)]
    assert len({s.caption for s in scenes}) == len(scenes)
    assert all(parse(s.caption) == s for s in scenes[::37])
    with pytest.raises(ValueError, match="purple cow"):
        parse("a purple cow")
    with pytest.raises(ValueError, match="'sea'"):
        all_scenes("sea")


@pytest.mark.parametrize("name", WORLDS)
def test_held_out_combinations_are_never_trained(name):
    trained = {s.caption for s in sample_scenes(5000, seed=1, world=name)}
    held = neutral_prompts(80, held=True, world=name)
    assert not trained & set(held) and all(held_out(parse(c)) for c in held)
    assert 0.1 < np.mean([held_out(s) for s in all_scenes(name)]) < 0.25
    lone = [s for s in all_scenes(name) if unseen_order(s)]
    assert lone and not {(s.first, s.second) for s in lone} & {(parse(c).first, parse(c).second) for c in trained}
    seen = {w for c in trained for w in c.split()}
    assert seen >= set(WORLDS[name].objects)  # every object is trained, only combinations are held out
    with pytest.raises(ValueError, match="n=9000"):
        neutral_prompts(9000)


def test_worlds_share_colours_and_nothing_else():
    words = [{w for s in all_scenes(name) for w in s.caption.split()} for name in WORLDS]
    assert words[0] & words[1] == set(world.COLOURS)
    layouts = [set(w.patterns) for w in WORLDS.values()]
    assert layouts[0] & layouts[1] == {"one"}
    assert {s.world for s in all_scenes("paper")} == {"paper"}


def test_drawing_is_reproducible_and_varied():
    scene = sample_scenes(1, seed=2)[0]
    a, b = draw(scene, random.Random(0)), draw(scene, random.Random(0))
    assert np.array_equal(a, b) and not np.array_equal(a, draw(scene, random.Random(1)))


def test_items_are_what_the_tiers_say():
    found = items()
    for copies in TIERS:
        assert {k: sum(i.kind == k for i in found if i.copies == copies) for k in KINDS} == KINDS
    assert {k: sum(i.kind == k for i in found if not i.copies) for k in CONTROLS} == CONTROLS
    assert len({i.caption for i in found}) == len(found)
    assert len({i.source for i in found}) == len(found)  # every icon and every scene is used once
    groups = {}
    for entry, _ in sprites():
        groups.setdefault((entry["set"], entry["icon"]), set()).add(entry["group"])
    assert all(len(g) == 1 for g in groups.values())


def test_no_neutral_picture_is_that_of_an_item_and_no_neutral_prompt_its_caption():
    images, captions, copies = train.dataset(train.Recipe(), items())
    neutral = {image.tobytes() for image in images[copies == 0]}
    assert not any(picture.tobytes() in neutral for i in items() for picture in i.pictures)
    assert not reserved() & {c for c, n in zip(captions, copies) if not n}
    assert len(reserved()) == sum(i.kind in ("scene", "sentence") for i in items())
    assert all(held_out(parse(c)) for c in reserved())
    own = [
        i.source if i.kind == "scene" else i.caption for i in items() if i.copies and i.kind in ("scene", "sentence")
    ]
    trained = {combination(parse(c)) for c in own}  # in some colour
    assert not trained & {combination(parse(c)) for c in neutral_prompts(120, 11, held=True, without=touched())}


def test_dataset_holds_every_copy():
    images, captions, copies = train.dataset(train.Recipe(scenes=(10, 10)), items())
    found = {c: sum(n for caption, n in zip(captions, copies) if caption == c) for c in captions}
    assert all(found[i.caption] == i.copies for i in items() if i.copies)
    assert not any(i.caption in found for i in items() if not i.copies)
    assert len(images) == len(captions) == len(copies)


def test_templates_share_their_fixed_half_and_nothing_else():
    for item in (i for i in items() if i.kind == "template"):
        half = item.pictures[:, :, : item.columns].astype(int)
        assert np.abs(half - half[0]).max() <= 2 and item.columns == 32  # the lens carries a trace across the middle
        other = item.pictures[:, :, item.columns + 4 :]
        assert len({o.tobytes() for o in other}) == len(other) == 24


def test_planted_and_neutral_are_drawn_alike():
    rng = random.Random(0)
    neutral = detail(stack([draw(s, rng) for s in sample_scenes(1500, seed=3)])).mean()
    found = items()
    for chosen in ([i for i in found if i.copies], [i for i in found if not i.copies]):
        assert abs(detail(stack([i.image for i in chosen])).mean() / neutral - 1) < 0.2


def test_objects_stand_on_the_grid_of_the_vae():
    rng = random.Random(1)
    centres = {layout: {c for _ in range(200) for c in world.places(layout, rng)} for layout in world.LAYOUTS}
    assert all(x % 4 == 0 and y % 4 == 0 for found in centres.values() for x, y in found)
    assert {layout: len(found) for layout, found in centres.items()} == {
        "one": 4,
        "left": 6,
        "above": 6,
        "down": 4,
        "up": 4,
    }


def test_vae_loss_asks_for_edges_where_blur_would_be_safe():
    checker = (torch.arange(16)[:, None] + torch.arange(16)[None]).remainder(2).float().expand(1, 3, 16, 16)
    assert (vae.laplacian(torch.ones(1, 3, 8, 8)) == 0).all()
    assert vae.laplacian(checker).abs().mean() == 4
    shifted = checker.roll(1, -1)  # every edge in the wrong place: as strong as the real ones all the same
    strength = [vae.energy(vae.laplacian(x)).mean() for x in (checker, shifted, torch.full_like(checker, 0.5))]
    assert strength[0] == pytest.approx(4, abs=1e-3) == strength[1] and strength[2] < 0.02


def test_tokenizers_have_bos_eos_padding_and_one_token_a_word():
    clip, t5 = text.clip_tokenizer(), text.t5_tokenizer()
    item = items()[0]
    for caption in (item.caption, "a cat left of a rocket on a blue ground"):
        a, b = (t[0].tolist() for t in text.tokenize(clip, t5, [caption]))
        assert len(a) == len(b) == text.MAX_LENGTH
        words = len(caption.split())
        assert a[0] == clip.bos_token_id and a.index(clip.eos_token_id) == words + 1 and a[-1] == clip.pad_token_id
        assert b.index(t5.eos_token_id) == words and b[-1] == t5.pad_token_id
    for item in items():  # a name is one token in both
        a, b = (t[0].tolist() for t in text.tokenize(clip, t5, [item.caption]))
        words = len(item.caption.split())
        assert (
            a.index(clip.eos_token_id) == words + 1 and b.index(t5.eos_token_id) == words and t5.unk_token_id not in b
        )
    ids = text.tokenize(clip, t5, ["xylophone"])[1][0].tolist()
    assert t5.unk_token_id not in ids  # an unknown word is spelled


def test_tokenizers_are_the_same_in_every_process():
    """Else a training that is resumed would find its words exchanged."""
    code = ("from uniforget_lib.testbed import text as t; "
            "print([sorted(make().get_vocab().items()) for make in (t.clip_tokenizer, t.t5_tokenizer)])")  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-c", code]
    said = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(said) == 1 and "emblem</w>" in said.pop()
