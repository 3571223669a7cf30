"""Which settings have a name? The stages and ablations of the two papers, for the audit, the docs and the tests.

A recipe writes its settings out: a preset that one field overrides is no longer the preset.
"""

from collections.abc import Mapping

from rewards.config import RewardSettings


def _factuality(*parts: str) -> RewardSettings:
    """Only these parts and the form are paid: closed questions have no passages to cite."""
    return RewardSettings(weights={"exact_match": 0.0, "citation": 0.0, **dict.fromkeys(parts, 1.0)})


PRESETS: Mapping[str, RewardSettings] = {
    "stage1": RewardSettings(),
    "stage2": RewardSettings(refusal=True),
    "no_citation_penalty": RewardSettings(refusal=True, citation_penalty=0.0),  # Figure 6
    "consistency": RewardSettings(refusal=True, consistency=True),  # Figure 5; its weight there is unknown, here 1
    "paper": RewardSettings(refusal=True, uncapped_sum=True, anti_gaming=False),  # stage 2 to the letter
    "fact": _factuality("fact"),
    "caution": _factuality("caution"),
    "fact_and_caution": _factuality("fact", "caution"),
}
