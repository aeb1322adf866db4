#!/usr/bin/env python3
"""A variational autoencoder of mel frames whose posterior is an inverse autoregressive flow (arXiv 1606.04934).

    python tools/iaf_vae.py CORPUS [--flows 0 1 2 4] [--steps 3000]

Frames of the corpus (wavs/*.wav) are standardised; an encoder gives each a Gaussian posterior of 16 dimensions and a
context, `--flows` steps of `nn.flow.InverseAutoregressive` bend it, the order of the dimensions turned around between
steps, and a decoder gives each bin a Gaussian. For each number of flows the bound on the log-likelihood of frames that
were not trained on is printed, in nats a frame, and with 100 samples of the posterior a tighter one (arXiv 1509.00519).
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxtts.audio import io
from jaxtts.audio.features import mel_spectrogram_np
from jaxtts.audio.spec import mel_spec
from jaxtts.nn.conv import Conv1d
from jaxtts.nn.flow import InverseAutoregressive
from jaxtts.nn.functional import merge, split
from jaxtts.nn.wavenet import WaveNet

LATENT, CONTEXT, HIDDEN, SAMPLES = 16, 16, 128, 100
LOG_2PI = float(np.log(2 * np.pi))


class Reads(nnx.Module):
    """What a flow asks of the dimensions before one: a causal stack over them, told the frame's context."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = Conv1d(1, 24, rngs=rngs)
        self.stack = WaveNet(24, 2, 4, dilation=2, cond_channels=CONTEXT, causal=True, rngs=rngs)
        self.last = Conv1d(24, 2, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, z: jax.Array, cond: jax.Array | None = None) -> jax.Array:
        """z [B, LATENT, 1], cond [B, 1, CONTEXT] -> [B, LATENT, 2]."""
        return self.last(jax.nn.relu(self.stack(self.first(z), cond=cond)))


class Autoencoder(nnx.Module):
    """Encoder, flows, decoder."""

    def __init__(self, bins: int, flows: int, *, rngs: nnx.Rngs):
        def dense(inputs: int, outputs: int) -> list[Conv1d]:
            return [
                Conv1d(inputs, HIDDEN, rngs=rngs),
                Conv1d(HIDDEN, HIDDEN, rngs=rngs),
                Conv1d(HIDDEN, outputs, rngs=rngs),
            ]

        self.encoder = nnx.List(dense(bins, 2 * LATENT + CONTEXT))
        self.flows = nnx.List([InverseAutoregressive(Reads(rngs)) for _ in range(flows)])
        self.decoder = nnx.List(dense(LATENT, 2 * bins))

    def __call__(self, x: jax.Array, noise: jax.Array) -> jax.Array:
        """Frames [B, M], standard normal [B, LATENT] -> log p(x, z) - log q(z | x) [B], whose mean is the bound."""
        mean, log_scale, context = jnp.split(_run(self.encoder, x), [LATENT, 2 * LATENT], axis=-1)
        z = mean + jnp.exp(log_scale) * noise
        log_q = -0.5 * noise**2 - log_scale - 0.5 * LOG_2PI  # [B, LATENT]
        for flow in self.flows:
            z = z[:, ::-1, None]
            shift, log = flow.affine(z, context[:, None])
            z, log_q = (shift + jnp.exp(log) * z)[..., 0], log_q[:, ::-1] - log[..., 0]
        told, width = jnp.split(_run(self.decoder, z), 2, axis=-1)
        width = jnp.maximum(width, -5.0)
        log_p = jnp.sum(-0.5 * ((x - told) * jnp.exp(-width)) ** 2 - width - 0.5 * LOG_2PI, axis=-1)
        prior = jnp.sum(-0.5 * z**2 - 0.5 * LOG_2PI, axis=-1)
        return log_p + prior - jnp.sum(log_q, axis=-1)


def _run(layers: Any, x: jax.Array) -> jax.Array:
    x = x[:, None]
    for i, layer in enumerate(layers):
        x = layer(x if i == 0 else jax.nn.elu(x))
    return x[:, 0]


def train(frames: np.ndarray, unseen: np.ndarray, flows: int, steps: int, seed: int) -> tuple[float, float]:
    """The bounds on unseen frames [N, M] with one sample of the posterior and with SAMPLES, nats a frame."""
    graph, params, _ = split(Autoencoder(frames.shape[1], flows, rngs=nnx.Rngs(seed)))
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, x: jax.Array, key: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return -jnp.mean(merge(graph, params)(x, jax.random.normal(key, (len(x), LATENT))))

        grads = jax.grad(loss)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def weights(params: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        return merge(graph, params)(x, jax.random.normal(key, (len(x), LATENT)))

    rng, state = np.random.default_rng(seed), optimizer.init(params)
    for i in range(steps):
        params, state = step(params, state, frames[rng.integers(len(frames), size=256)], jax.random.key(i))
    found = np.stack([weights(params, unseen, jax.random.key(steps + i)) for i in range(SAMPLES)])  # [SAMPLES, N]
    tighter = jax.nn.logsumexp(found, axis=0) - np.log(SAMPLES)
    return float(found.mean()), float(np.mean(tighter))


def main() -> None:
    """Reads the frames and trains each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--flows", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    spec = mel_spec("hifigan")
    paths = sorted((args.corpus / "wavs").glob("*.wav"))[: args.utterances]
    if len(paths) < 10:
        parser.error(f"{args.corpus} has {len(paths)} recordings in wavs/: give at least 10")
    mels = [mel_spectrogram_np(io.load(path, spec.sample_rate)[0], spec) for path in paths]
    held_out = len(mels) // 10
    frames, unseen = np.concatenate(mels[held_out:]), np.concatenate(mels[:held_out])
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    frames, unseen = ((x - mean) / deviation for x in (frames, unseen))
    print(f"{len(frames)} frames to train on, {len(unseen)} unseen, {args.steps} steps of 256 each")
    print(f"{'flows':>5} {'bound':>9} {f'of {SAMPLES}':>9}   nats a frame of {spec.num_bins} standardised bins")
    for flows in args.flows:
        bound, tighter = train(frames, unseen, flows, args.steps, args.seed)
        print(f"{flows:5} {bound:9.3f} {tighter:9.3f}", flush=True)


if __name__ == "__main__":
    main()
