"""What a run imports and takes seconds: loaded once, by the process that those of tests/forked.py come from.

Names of transformers are looked up one by one, since it imports nothing before it is asked.
"""

import importlib.util

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama import modeling_llama

import launch.stage
from grpo.policy import guard, single
from grpo.rollout import hf
from launch import models, tiny_model

LOADED = (launch.stage, guard, single, hf, models, tiny_model, modeling_llama)
CLASSES = (AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast)

if importlib.util.find_spec("deepspeed"):
    from grpo.policy import zero as zero
