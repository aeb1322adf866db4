"""What an alignment of text and frames should be like: a loss that asks for it, measures that show it in training.

Also the decision of an autoregressive decoder to stop.
"""

import jax
import jax.numpy as jnp

from jaxtts.nn.masking import sequence_mask


def guided_attention(
    alignment: jax.Array, text_lengths: jax.Array, mel_lengths: jax.Array, sigma: float = 0.2
) -> jax.Array:
    """Mean of the weights far off the diagonal (arXiv 1710.08969 eq. 9), over the real cells; a scalar.

    Args:
        alignment: [B, T, S]; text_lengths, mel_lengths: [B], the latter in rows of the alignment.
        sigma: width of the band that costs little, as a share of the whole (g in the paper).
    """
    away = 1.0 - jnp.exp(-(_distance(alignment, text_lengths, mel_lengths) ** 2) / (2 * sigma**2))
    real = _real(alignment, text_lengths, mel_lengths)
    return jnp.sum(jnp.where(real, alignment * away, 0.0)) / jnp.maximum(jnp.sum(real), 1)


def diagonality(alignment: jax.Array, text_lengths: jax.Array, mel_lengths: jax.Array, band: float = 0.15) -> jax.Array:
    """Share of the weight that lies within `band` of the diagonal [B]: about 2 * band of a flat alignment, near 1 of
    one that reads along at an even pace."""
    near = _distance(alignment, text_lengths, mel_lengths) <= band
    weight = jnp.where(_real(alignment, text_lengths, mel_lengths), alignment, 0.0)
    return jnp.sum(weight * near, axis=(1, 2)) / jnp.maximum(jnp.sum(weight, axis=(1, 2)), 1e-8)


def coverage(alignment: jax.Array, text_lengths: jax.Array, mel_lengths: jax.Array) -> jax.Array:
    """Share of the symbols that some frame looks at more than at any other [B]: 1 if none is skipped."""
    weight = jnp.where(_real(alignment, text_lengths, mel_lengths), alignment, -1.0)
    symbols = alignment.shape[2]
    chosen = jax.nn.one_hot(jnp.argmax(weight, axis=2), symbols)  # [B, T, S]
    chosen = chosen * sequence_mask(mel_lengths, alignment.shape[1])[..., None]
    return jnp.sum(jnp.max(chosen, axis=1), axis=1) / jnp.maximum(text_lengths, 1)


def focus(alignment: jax.Array, mel_lengths: jax.Array) -> jax.Array:
    """Mean over the frames of the largest weight [B] (the focus rate of arXiv 1905.09263 sec. 3.1)."""
    real = sequence_mask(mel_lengths, alignment.shape[1])
    return jnp.sum(jnp.where(real, jnp.max(alignment, axis=2), 0.0), axis=1) / jnp.maximum(mel_lengths, 1)


def measures(alignment: jax.Array, text_lengths: jax.Array, mel_lengths: jax.Array) -> dict[str, jax.Array]:
    """Means of all of the above over a batch; `off_diagonal` is `guided_attention`."""
    return {
        "off_diagonal": guided_attention(alignment, text_lengths, mel_lengths),
        "diagonality": jnp.mean(diagonality(alignment, text_lengths, mel_lengths)),
        "coverage": jnp.mean(coverage(alignment, text_lengths, mel_lengths)),
        "focus": jnp.mean(focus(alignment, mel_lengths)),
    }


def stop_loss(logits: jax.Array, steps: jax.Array, weight: float = 1.0) -> jax.Array:
    """Cross-entropy of the decision to stop, which is right in the last step alone; mean over the real steps.

    Args:
        logits: [B, T]; steps: of each item [B]; weight: of the last step.
    """
    place = jnp.arange(logits.shape[1])[None]
    last = place == steps[:, None] - 1
    each = jnp.where(last, weight * jax.nn.softplus(-logits), jax.nn.softplus(logits))
    return jnp.sum(jnp.where(place < steps[:, None], each, 0.0)) / jnp.maximum(jnp.sum(steps), 1)


def _distance(alignment: jax.Array, text_lengths: jax.Array, mel_lengths: jax.Array) -> jax.Array:
    """[B, T, S]: how far a cell lies from the diagonal, as a share of the whole."""
    _, frames, symbols = alignment.shape
    along_text = jnp.arange(symbols)[None, None, :] / jnp.maximum(text_lengths, 1)[:, None, None]
    along_mel = jnp.arange(frames)[None, :, None] / jnp.maximum(mel_lengths, 1)[:, None, None]
    return jnp.abs(along_text - along_mel)


def _real(alignment: jax.Array, text_lengths: jax.Array, mel_lengths: jax.Array) -> jax.Array:
    _, frames, symbols = alignment.shape
    return sequence_mask(mel_lengths, frames)[:, :, None] & sequence_mask(text_lengths, symbols)[:, None, :]
