"""The registry of Tenfold's ten rooms, which the command line, the docs and the README read."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["SYSTEMS", "System"]


@dataclass(frozen=True)
class System:
    """One research system and the room it lives in.

    Attributes:
        name: The room, as in `tenfold.<name>` and `tenfold <name> <verb>`.
        title: The system's own name.
        paper: Title and arXiv number of the paper it comes from.
        summary: What it does, in one line without a full stop.
        extra: The extra that brings optional requirements, as in `pip install 'tenfold[<extra>]'`.
        state: `works` if the room can be used today, `planned` if there is no code yet.
    """

    name: str
    title: str
    paper: str
    summary: str
    extra: str
    state: Literal["works", "planned"]


SYSTEMS: tuple[System, ...] = (
    System(
        name="search",
        title="FusionANNS",
        paper="FusionANNS: An Efficient CPU/GPU Cooperative Processing Architecture for "
        "Billion-scale Approximate Nearest Neighbor Search (arXiv 2409.16576)",
        summary="vector search for more vectors than memory: codes in memory, vectors on disk",
        extra="search",
        state="works",
    ),
    System(
        name="attention",
        title="Gated Slot Attention",
        paper="Gated Slot Attention for Efficient Linear-Time Sequence Modeling (arXiv 2409.07146)",
        summary="linear-time attention layer and language model",
        extra="attention",
        state="works",
    ),
    System(
        name="faces",
        title="Bridge distillation",
        paper="Efficient Low-Resolution Face Recognition via Bridge Distillation (arXiv 2409.11786)",
        summary="tiny embedder for low-resolution faces, distilled from a big one",
        extra="faces",
        state="works",
    ),
    System(
        name="anatomy",
        title="Brain-MRI generator evaluation",
        paper="Evaluating the Quality of Brain MRI Generators (arXiv 2409.08463)",
        summary="segments generated brain MRIs and tells by region whether they are plausible",
        extra="anatomy",
        state="works",
    ),
    System(
        name="expressions",
        title="UniLearn",
        paper="UniLearn: Enhancing Dynamic Facial Expression Recognition through Unified "
        "Pre-Training and Fine-Tuning on Images and Videos (arXiv 2409.06154)",
        summary="one model for facial expressions in still images and in video",
        extra="expressions",
        state="planned",
    ),
    System(
        name="prompts",
        title="Nemesis",
        paper="Nemesis: Normalizing the Soft-prompt Vectors of Vision-Language Models (arXiv 2408.13979)",
        summary="few-shot adaptation of CLIP by soft prompts with normalised norms",
        extra="prompts",
        state="planned",
    ),
    System(
        name="video_quality",
        title="LMM-VQA",
        paper="LMM-VQA: Advancing Video Quality Assessment with Large Multimodal Models (arXiv 2408.14008)",
        summary="scores the quality of a video and explains the score",
        extra="video_quality",
        state="planned",
    ),
    System(
        name="fingerprints",
        title="CoGraCa",
        paper="Brain-Cognition Fingerprinting via Graph-GCCA with Contrastive Learning (arXiv 2409.13887)",
        summary="brain-cognition fingerprints from fMRI connectivity and cognitive scores",
        extra="fingerprints",
        state="planned",
    ),
    System(
        name="avatars",
        title="DEGAS",
        paper="DEGAS: Detailed Expressions on Full-Body Gaussian Avatars (arXiv 2408.10588)",
        summary="full-body Gaussian avatars with detailed expressions",
        extra="avatars",
        state="planned",
    ),
    System(
        name="classroom",
        title="MAIC",
        paper="From MOOC to MAIC: Reshaping Online Teaching and Learning through LLM-driven Agents (arXiv 2409.03512)",
        summary="a course taught by language-model agents, prepared from slides",
        extra="classroom",
        state="planned",
    ),
)
"""All ten rooms, the ones that work first."""
