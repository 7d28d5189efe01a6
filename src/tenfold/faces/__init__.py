"""Bridge distillation: a tiny embedder for faces of few pixels, taught by a big one, and galleries kept lawfully."""
