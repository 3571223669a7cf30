"""Every recipe parses, what `dump` writes `load` reads, and wrong input is one line that helps."""

from pathlib import Path

import pytest

from grpo.config import describe, dump, load
from grpo.errors import UserError
from grpo.telemetry.console import Console
from launch.builders.data import all_examples
from launch.config.recipe import Recipe
from launch.planner.report import batch_plan

ROOT = Path(__file__).resolve().parents[3]
STAGES = sorted(ROOT.glob("configs/*.toml"))
MODELS = sorted(ROOT.glob("configs/models/*.toml"))


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
@pytest.mark.parametrize("stage", STAGES, ids=lambda path: path.stem)
def test_every_recipe_parses_and_survives_a_round_trip(stage, model, tmp_path):
    recipe = load(Recipe, [str(stage), str(model)])
    assert recipe.run.stage == stage.stem
    assert recipe.model.label == model.stem
    (tmp_path / "saved.toml").write_text(dump(recipe), encoding="utf-8")
    assert load(Recipe, [str(tmp_path / "saved.toml")]) == recipe


def test_the_papers_settings():
    """Paper 3 and 3.1: 8 samples, 384 completions a step, lr 1e-5 cosine, warm-up 0.1, 4 epochs; 25 and 250 steps."""
    for stage, questions, share, steps in (("stage1", 300, 0.0, 25), ("stage2", 3000, 0.5, 250)):
        recipe = load(Recipe, [str(ROOT / f"configs/{stage}.toml"), str(ROOT / "configs/models/qwen3-8b.toml")])
        assert recipe.sampling.prompts_per_step * recipe.sampling.group_size == 384
        assert (recipe.optim.lr, recipe.optim.schedule, recipe.optim.warmup_ratio) == (1e-5, "cosine", 0.1)
        assert (recipe.data.max_train, recipe.data.unanswerable) == (questions, share)
        assert recipe.steps(questions) == steps
        assert recipe.reward.refusal is (stage == "stage2")
        assert f"{questions} questions, {steps} steps = 4.0 epochs" in batch_plan(recipe, questions=questions)


def test_steps_by_stage():
    recipes = {
        stage: load(Recipe, [f"--run.stage={stage}", "--run.steps={default=30,stage2=45}"])
        for stage in ("stage1", "stage2")
    }
    assert [recipe.steps(1000) for recipe in recipes.values()] == [30, 45]
    assert load(Recipe, ["--run.steps={default=30,stage2=45}", "--run.steps=7", "--run.stage=stage2"]).steps(1000) == 7
    for wrong in ("{stage2=45}", "{default=-1}", "-1", "true", "1.5"):
        with pytest.raises(UserError, match=r"run.steps = .*: valid: a whole number, 0 or more, or one for each stage"):
            load(Recipe, [f"--run.steps={wrong}"])


def test_a_share_by_stage():
    for wrong in ("{stage2=1.0}", "{default=1.5}", "-0.1", "true"):
        with pytest.raises(UserError, match=r"data.unrelated = .*: valid: a share from 0 to 1, or one for each stage"):
            load(Recipe, [f"--data.unrelated={wrong}"])
    questions = {
        (stage, share): all_examples(load(Recipe, [f"--run.stage={stage}", f"--data.unrelated={share}"]), Console())
        for stage in ("stage1", "stage2")
        for share in ("0.8", "1.0", "{default=0.8,stage2=1.0}")
    }
    assert questions["stage1", "{default=0.8,stage2=1.0}"] == questions["stage1", "0.8"] != questions["stage1", "1.0"]
    assert questions["stage2", "{default=0.8,stage2=1.0}"] == questions["stage2", "1.0"]


def test_later_wins_and_overrides_are_typed(tmp_path):
    (tmp_path / "a.toml").write_text("[run]\nseed = 1\nsteps = 5\n", encoding="utf-8")
    (tmp_path / "b.toml").write_text("[run]\nseed = 2\n", encoding="utf-8")
    recipe = load(Recipe, [str(tmp_path / "a.toml"), str(tmp_path / "b.toml"), "--run.steps=7", "--run.name=my-run"])
    assert (recipe.run.seed, recipe.run.steps, recipe.run.name) == (2, 7, "my-run")
    for name in ("7", "2026-11-01", "true"):
        assert load(Recipe, [f"--run.name={name}"]).run.name == name
    styles = load(Recipe, ["--data.styles={prose=1.0}", "--data.styles={list=1.0}"]).data.styles
    assert styles == {"list": 1.0}  # a table that is a value is replaced, not merged


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[sampling]\ngroup_sise = 4",
            r"recipe.toml:2: unknown key sampling.group_sise; did you mean sampling.group_size\?",
        ),
        ("[sampeling]\ngroup_size = 4", r"recipe.toml:2: unknown key sampeling; did you mean sampling\?"),
        ("[sampling]\n\ngroup_size = 1", r"recipe.toml:3: sampling.group_size = 1: .*greater than or equal to 2"),
        ("[sampling]\ngroup_size = 'eight'", r"recipe.toml:2: sampling.group_size = 'eight': .*valid integer"),
        ("[loss]\ntype = 'ppo'", r"recipe.toml:2: loss.type = 'ppo': .*'grpo', 'gspo', 'cispo' or 'sapo'"),
        ("[data]\nunanswerable = 1.5", r"recipe.toml:2: data.unanswerable = 1.5: .*less than or equal to 1"),
        ("[reward]\nweights = { citations = 2.0 }", r"no part 'citations'; valid: tag_count"),
        (
            "[reward]\nconsistency = true",
            r"reward.consistency = true .* model.reasoning = false has none; valid: model.reasoning",
        ),
        (
            "[reward]\nanti_gamin = true",
            r"recipe.toml:2: unknown key reward.anti_gamin; did you mean reward.anti_gaming\?",
        ),
        ("[reward]\ntimeout = 0", r"recipe.toml:2: reward.timeout = 0: .*greater than 0"),
        ("[loss]\nkl = 0.1", r"recipe.toml:2: loss.kl is now loss.kl_coef"),
        ("[warmup]\nsteps = 3", r"recipe.toml:2: warmup is now sft"),
        ("sampling = 3", r"recipe.toml:1: sampling is a section"),
        ("[run\nseed = 1", r"recipe.toml: not TOML: .*line 1"),
        ("[sampling]\nmax_tokens = 4000\n[model]\ncontext = 2048", r"max_tokens = 4000 leaves no room .* at most 2047"),
        ("[optim]\nbetas = [1.0, 0.999]", r"recipe.toml:2: optim.betas.0 = 1.0: .*less than 1"),
        ("[optim]\nlr = inf", r"recipe.toml:2: optim.lr = inf: .*finite"),
        ("[loss]\ndual_clip = 1.1", r"dual_clip = 1.1 would also cap .* valid: 0 \(off\) or above 1.2"),
        ("[loss]\nupdates_per_step = 9\n[sampling]\nprompts_per_step = 4", r"updates_per_step = 9 .* = 4 groups"),
    ],
)
def test_bad_recipes(tmp_path, text, message):
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        load(Recipe, [str(tmp_path / "recipe.toml")])
    assert "\n" not in str(caught.value)


def test_bad_arguments(tmp_path):
    with pytest.raises(UserError, match=r"--run.seed: an override is written --section.key=value"):
        load(Recipe, ["--run.seed"])
    with pytest.raises(UserError, match=r"--run.sead=1: unknown key run.sead; did you mean run.seed\?"):
        load(Recipe, ["--run.sead=1"])
    with pytest.raises(UserError, match=r"--sampling.group_size=1: sampling.group_size = 1"):
        load(Recipe, ["--sampling.group_size=1"])
    with pytest.raises(UserError, match=r"stage3.toml: cannot read this recipe .*; there is .*stage1.toml"):
        load(Recipe, [str(ROOT / "configs/stage3.toml")])


def test_help_lists_every_key_with_its_default():
    text = describe(Recipe)
    assert "--sampling.group_size=8" in text
    assert "--reward.citation_penalty=0.5" in text
