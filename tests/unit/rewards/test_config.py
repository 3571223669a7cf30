"""Settings that contradict each other, or name no part, are refused."""

import pytest

from rewards.config import RewardConfig
from rewards.scorer import RewardScorer


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"weights": {"citaton": 1.0}},
            "no part 'citaton'; valid: tag_count, format, exact_match, citation, token_f1, fuzzy",
        ),
        ({"weights": {"refusal": 1.0}}, "needs refusal = true"),
        ({"weights": {"consistency": 1.0}}, r"no part 'consistency' \(it needs consistency = true\)"),
        ({"timeout": 0}, "greater than 0"),
        ({"failure_limit": 1.5}, "less than or equal to 1"),
        ({"weights": {"citation": float("nan")}}, "finite"),
        ({"citation_penalty": -0.5}, "greater than or equal to 0"),
        ({"penalty": 0.5}, "Extra inputs"),
        ({"judge": "nil"}, "unknown judge 'nil'; valid: .*lexical"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardScorer(RewardConfig.model_validate(wrong), reasoning=True)
