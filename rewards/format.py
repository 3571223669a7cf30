"""Is it in the form that was asked for? R_tag_count and R_format (Ground-GRPO eqs 3 and 4)."""

from rewards.answer import TAGS, Answer


def tag_count(answer: Answer, *, reasoning: bool) -> float:
    """R_tag_count (eq 3): 1/4 * |{t in <think>, </think>, <answer>, </answer> : count(t) = 1}|.

    In the plain format no tag belongs, so there it is the share of tags that appear 0 times. A plain answer thus starts
    from the same 1.0, and the paper's totals hold for both formats.
    """
    expected = 1 if reasoning else 0
    return sum(answer.tags[tag] == expected for tag in TAGS) / len(TAGS)


def format_reward(answer: Answer) -> float:
    """R_format (eq 4): 1 if the output format is correct, else 0."""
    return 1.0 if answer.well_formed else 0.0
