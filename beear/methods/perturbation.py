"""The universal perturbation: a small module that holds δ and adds it to hidden states.

Legend: B rows, P prompt tokens, R answer tokens, T = P + R, n vectors, D hidden.
"""

import torch
from torch import Tensor, nn

from beear.methods.placements import NONE, PLACEMENTS, Shape, index_map


class Perturbation(nn.Module):
    """δ [n, D] after decoder layer ``layer``, in units of ``rms``, the RMS of an ordinary token's hidden state there.

    The parameter ``delta`` is unitless: what is added is ``delta * rms``, so that a learning rate or a bound means
    the same for a toy and for 70B. It starts at zero unless ``scale`` asks for a Gaussian of that size.
    """

    def __init__(
        self,
        hidden_size: int,
        layer: int,
        placement: str,
        length: int = 5,
        longest_prompt: int = 0,
        rms: float = 1.0,
        suffix_from: str = "prompt",
        scale: float = 0.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Make a perturbation; ``longest_prompt`` (tokens) sizes the ``prompt`` placement."""
        super().__init__()
        self.layer, self.placement, self.rms, self.suffix_from = layer, placement, rms, suffix_from
        vectors = PLACEMENTS[placement].vectors(length, longest_prompt)
        noise = torch.randn(vectors, hidden_size, generator=torch.Generator().manual_seed(seed))
        self.delta = nn.Parameter((scale * noise).to(device=device, dtype=dtype))

    def index(self, prompt_mask: Tensor, user_end: Tensor, answer_tokens: int) -> Tensor:
        """Return the index map [B, T] for prompts ``prompt_mask`` [B, P] followed by ``answer_tokens`` tokens.

        ``user_end`` [B] counts the template tokens after the user's text; it shifts a suffix counted from there.
        """
        counted_from_user = self.placement == "suffix" and self.suffix_from == "user"
        shift = user_end if counted_from_user else torch.zeros_like(user_end)
        return index_map(self.placement, Shape(prompt_mask, shift, answer_tokens), self.delta.shape[0])

    def add(self, hidden: Tensor, index: Tensor) -> Tensor:
        """Return ``hidden`` [B, T, D] with the vectors that ``index`` [B, T] names added (-1: unchanged)."""
        vectors = (self.delta * self.rms).to(hidden.dtype)
        chosen = vectors[index.clamp_min(0)]
        return hidden + chosen * (index != NONE).unsqueeze(-1)

    @torch.no_grad()
    def project(self, bound: float | None) -> None:
        """Shrink each vector to at most ``bound`` in units of RMS * sqrt(D); None leaves it free."""
        if bound is None:
            return
        limit = bound * self.delta.shape[1] ** 0.5
        norms = self.delta.norm(dim=-1, keepdim=True)
        self.delta.mul_((limit / norms.clamp_min(1e-12)).clamp_max(1.0))

    @property
    def size(self) -> float:
        """Largest per-vector norm, in units of RMS * sqrt(D)."""
        return float(self.delta.detach().norm(dim=-1).max()) / self.delta.shape[1] ** 0.5
