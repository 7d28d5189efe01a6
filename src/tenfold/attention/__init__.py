from tenfold.attention.blocks import Blocks, byte_blocks, pack, pack_files
from tenfold.attention.cache import SlotCache
from tenfold.attention.convert import Conversion, convert_folder, from_transformer
from tenfold.attention.data import read_texts
from tenfold.attention.distillation import attention_error, warm_up
from tenfold.attention.documents import document_losses, document_perplexity
from tenfold.attention.evaluation import (
    Perplexity,
    PositionLoss,
    RecallSlice,
    evaluate_mqar,
    loss_by_position,
    perplexity,
    recall_slice,
)
from tenfold.attention.generation import generate_tokens, stream_text
from tenfold.attention.harness import evaluate_tasks, harness_model
from tenfold.attention.layers import MIXERS, GatedSlotAttention, Mixer, MixerConfig
from tenfold.attention.linear import gla
from tenfold.attention.model import GSAConfig, GSAForCausalLM, GSAModel, GSAOutput
from tenfold.attention.mqar import MQAR
from tenfold.attention.operator import abc_gates, gsa, gsa_step
from tenfold.attention.recall import RecallItem, RecallResult, Score, evaluate_recall, read_recall
from tenfold.attention.speed import BlockSpeed, compare_blocks
from tenfold.attention.tokens import byte_tokenizer, count_bytes, load_tokenizer, train_tokenizer
from tenfold.attention.training import make_model, train_language_model, train_recall

__all__ = [
    "MIXERS",
    "MQAR",
    "BlockSpeed",
    "Blocks",
    "Conversion",
    "GSAConfig",
    "GSAForCausalLM",
    "GSAModel",
    "GSAOutput",
    "GatedSlotAttention",
    "Mixer",
    "MixerConfig",
    "Perplexity",
    "PositionLoss",
    "RecallItem",
    "RecallResult",
    "RecallSlice",
    "Score",
    "SlotCache",
    "abc_gates",
    "attention_error",
    "byte_blocks",
    "byte_tokenizer",
    "compare_blocks",
    "convert_folder",
    "count_bytes",
    "document_losses",
    "document_perplexity",
    "evaluate_mqar",
    "evaluate_recall",
    "evaluate_tasks",
    "from_transformer",
    "generate_tokens",
    "gla",
    "gsa",
    "gsa_step",
    "harness_model",
    "load_tokenizer",
    "loss_by_position",
    "make_model",
    "pack",
    "pack_files",
    "perplexity",
    "read_recall",
    "read_texts",
    "recall_slice",
    "stream_text",
    "train_language_model",
    "train_recall",
    "train_tokenizer",
    "warm_up",
]
