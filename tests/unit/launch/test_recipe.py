"""Every recipe parses, what `dump` writes `load` reads, and wrong input is one line that helps."""

import shlex
from pathlib import Path

import pytest

from grpo.config import describe, dump, load
from grpo.errors import UserError
from launch.config.recipe import Recipe, load_recipe
from launch.evaluate import evaluation_recipe
from launch.planner.report import batch_plan
from tests.helpers.source_tree import MODELS, ROOT, STAGES


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
        assert f"{questions} questions, {steps} steps = 4.0 epochs" in batch_plan(
            recipe.sampling, recipe.loss, recipe.policy, questions=questions, steps=steps
        )


def test_a_base_is_read_first_and_named_in_errors(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "first.toml").write_text("[run]\nseed = 1\nsteps = 5\n", encoding="utf-8")
    (tmp_path / "second.toml").write_text("base = 'below/first.toml'\n[run]\nseed = 2\n", encoding="utf-8")
    (tmp_path / "third.toml").write_text("base = 'second.toml'\n[run]\nepochs = 9\n", encoding="utf-8")
    run = load(Recipe, [str(tmp_path / "third.toml")]).run
    assert (run.seed, run.steps, run.epochs) == (2, 5, 9)
    for text, message in (
        ("base = 'third.toml'", r"second.toml:1: base = 'third.toml': this recipe would be a base of itself"),
        ("[run]\n\nseed = 'x'", r"second.toml:3: run.seed = 'x': .*valid integer"),
        ("base = 3", r"second.toml:1: base = 3; valid: the name of a recipe, in quotes"),
        ("\nbase = 'frist.toml'", r"second.toml:2: base: .*frist.toml: cannot read this recipe"),
    ):
        (tmp_path / "second.toml").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            load(Recipe, [str(tmp_path / "third.toml")])


@pytest.mark.parametrize("overlay", sorted(ROOT.glob("configs/models/*/*.toml")), ids=lambda path: path.parent.name)
def test_a_models_recipe_for_a_stage_takes_the_place_of_its_recipe(overlay):
    stage, other, model = (
        ROOT / "configs" / overlay.name,
        ROOT / "configs/stage1.toml",
        overlay.parent.with_suffix(".toml"),
    )
    whole, own = (load(Recipe, [str(stage), str(file)]) for file in (model, overlay))
    assert own.model == whole.model
    assert own != whole
    assert load_recipe(["--run.seed=3", str(stage), str(model)]) == own.replace(run=own.run.replace(seed=3))
    assert load_recipe([str(other), str(model)]) == load(Recipe, [str(other), str(model)])


def test_every_way_to_write_an_override():
    flags = [
        "--run.seed",
        "7",
        "--model.reasoning",
        "--data.no-shuffle",
        "--policy.token-budget=512",
        "--run.name",
        "-x",
    ]
    recipe = load(Recipe, flags)
    assert (recipe.run.seed, recipe.model.reasoning, recipe.data.shuffle) == (7, True, False)
    assert (recipe.policy.token_budget, recipe.run.name) == (512, "-x")
    assert load(Recipe, ["--data.source=~/x.csv"]).data.source == str(Path.home() / "x.csv")


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf[run]\nseed = 4\n")
    assert load(Recipe, [str(tmp_path / "a.toml")]).run.seed == 4


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
        ("[data]\nunanswerable = 1.5", r"recipe.toml:2: data.unanswerable = 1.5: .*less than or equal to 1, or 'any'"),
        ("[data]\nunanswerable = true", r"recipe.toml:2: data.unanswerable = True: .*valid number, or 'any'"),
        ("[run]\nsteps = '3'", r"recipe.toml:2: run.steps = '3': .*valid integer"),
        ("[run]\nname = 'a/b'", r"recipe.toml:2: run.name = 'a/b': valid: the name of one folder"),
        ("[held_out]\nbest_by = 'trust'", r"recipe.toml:2: held_out.best_by = 'trust': .*; nearest: 'trust_score'"),
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
    with pytest.raises(UserError, match=r"--lr=1e-6: unknown key lr; did you mean optim.lr or sft.lr\?"):
        load(Recipe, ["--lr=1e-6"])
    with pytest.raises(UserError, match=r"--run.sead=1: unknown key run.sead; did you mean run.seed\?"):
        load(Recipe, ["--run.sead=1"])
    with pytest.raises(UserError, match=r"--sampling.group_size=1: sampling.group_size = 1"):
        load(Recipe, ["--sampling.group_size=1"])
    with pytest.raises(UserError, match=r"stage3.toml: cannot read this recipe .*; there is .*stage1.toml"):
        load(Recipe, [str(ROOT / "configs/stage3.toml")])


def test_what_help_prints_can_be_pasted_back():
    text = describe(Recipe)
    assert "--sampling.group_size=8  (integer >= 2)\n      completions per question" in text
    flags = [line.split("  (")[0].strip() for line in text.splitlines() if line.strip().startswith(("--", "'--"))]
    assert load(Recipe, [word for flag in flags for word in shlex.split(flag)]) == Recipe()
    some = [
        line.split("=")[0] for line in describe(Recipe, ["policy.dtype", "eval"]).splitlines() if "  --" in line[:4]
    ]
    assert some == ["  --policy.dtype", *(f"  --eval.{key}" for key in type(Recipe().eval).model_fields)]
    for name, info in Recipe.model_fields.items():
        assert all(field.description for field in info.annotation.model_fields.values()), name


def test_the_papers_sets_are_asked_whole_whatever_the_recipe_has(tmp_path):
    """A checkpoint's recipe is about the file that it was trained on; what the command line says holds."""
    own = tmp_path / "own.toml"
    own.write_text(
        "[data]\nsource = 'log.jsonl'\nformat = 'rag_log'\nfields = { question = 'q' }\nstyle = 'list'\n"
        "gold = ['gold.json']\n[eval]\nquestions = 4\n",
        encoding="utf-8",
    )
    tiny = str(ROOT / "configs/models/tiny.toml")
    asked = evaluation_recipe([tiny, str(own), "--data.source=trust-score"])
    data = asked.data
    assert (data.format, data.fields, data.style, data.gold) == ("", {}, "", ())
    assert (asked.eval.questions, asked.eval.split, data.passages) == (0, "all", 5)
    some = evaluation_recipe([tiny, "--data.source=trust-score", "--eval.questions=7", "--data.style=prose"])
    assert (some.eval.questions, some.data.style) == (7, "prose")
