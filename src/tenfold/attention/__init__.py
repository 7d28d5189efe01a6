from tenfold.attention.cache import SlotCache
from tenfold.attention.layers import MIXERS, GatedSlotAttention, Mixer, MixerConfig
from tenfold.attention.linear import gla
from tenfold.attention.model import GSAConfig, GSAForCausalLM, GSAModel, GSAOutput
from tenfold.attention.operator import abc_gates, gsa, gsa_step

__all__ = [
    "MIXERS",
    "GSAConfig",
    "GSAForCausalLM",
    "GSAModel",
    "GSAOutput",
    "GatedSlotAttention",
    "Mixer",
    "MixerConfig",
    "SlotCache",
    "abc_gates",
    "gla",
    "gsa",
    "gsa_step",
]
