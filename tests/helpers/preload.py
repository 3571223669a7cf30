"""What a run imports and takes seconds: loaded once, by the process that those of tests/helpers/forked.py come from.

Names of transformers are looked up one by one, since it imports nothing before it is asked.
"""

import importlib
import importlib.util
from contextlib import suppress

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama import modeling_llama

import launch.runs.grpo
from grpo.policy import nonfinite as guard
from grpo.policy import torch_backend as single
from grpo.rollout import hf
from launch.builders import models

LOADED = (launch.runs.grpo, guard, single, hf, models, modeling_llama)
CLASSES = (AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast)

# What those import when they are first used: half of a second rank's 16 seconds. Without one of them it is only slower.
LATER = ["nltk"]

if importlib.util.find_spec("deepspeed"):
    LATER += ["setuptools", "distutils.unixccompiler", "torch._dynamo.repro.after_aot", "torch._inductor.compile_fx"]
    LATER += ["deepspeed.ops.op_builder.all_ops", "deepspeed.module_inject.auto_ep_layer"]
    LATER += ["deepspeed.runtime.zero.muon"]

for name in LATER:
    with suppress(ModuleNotFoundError):
        importlib.import_module(name)
