"""Our answers to recorded cases of jik876/hifi-gan, in its names and layouts; see tools/parity.py."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.audio.features import mel_basis
from jaxtts.audio.stft import mel_spectrogram
from jaxtts.losses.gan import discriminator_losses, feature_losses, generator_losses
from jaxtts.losses.spectral import mel_l1
from jaxtts.models.hifigan.convert import config_from, discriminator_params, generator_params, mel_from
from jaxtts.models.hifigan.discriminators import Discriminators, power_iteration
from jaxtts.models.hifigan.model import GanConfig, Generator
from jaxtts.nn import functional

Arrays = dict[str, np.ndarray]


def parity(meta: Mapping[str, Any], weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> Arrays:
    """'out.*' -> our value, for a case of a generator, of MPD or MSD, or of the mel front end.

    Args:
        meta: the case's meta.json.
        weights: the reference's names and layouts (none for the front end).
        inputs: 'in.*' -> array.
    """
    config = meta["config"]
    if "in.mel" in inputs:
        return _generator(config, weights, inputs["in.mel"])
    if "conv_channels" in config:
        return _discriminator(config, weights, inputs["in.y"][:, 0], inputs["in.y_hat"][:, 0])
    return _front_end(config, inputs["in.y"], inputs["in.y_hat"])


def _generator(config: Mapping[str, Any], weights: Mapping[str, np.ndarray], mel: np.ndarray) -> Arrays:
    ours = config_from({"num_mels": mel.shape[1], **config})
    structure, _, _ = functional.structure(lambda: Generator(ours, rngs=functional.rngs_for_shapes()))
    generator = functional.merge(structure, generator_params(weights, ours))
    stages = generator.stages(jnp.asarray(mel).swapaxes(1, 2))
    wave = stages.pop("wave")[:, None]  # [B, 1, N]
    return {"out.audio": np.asarray(wave)} | {f"out.{n}": np.asarray(x.swapaxes(1, 2)) for n, x in stages.items()}


def _discriminator(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray], real: np.ndarray, fake: np.ndarray
) -> Arrays:
    channels, periods = tuple(config["conv_channels"]), config.get("periods")
    family, prefix = ("period", "mpd") if periods else ("scale", "msd")
    widths: dict[str, Any] = {"scale_channels": channels}
    if periods:
        widths = {"periods": tuple(periods), "period_channels": channels}
    gan = GanConfig(discriminators=(family,), weights=(1.0,), **widths)
    params, rest = discriminator_params({f"{prefix}.{name}": w for name, w in weights.items()}, gan)
    structure, _, _ = functional.structure(lambda: Discriminators(gan, rngs=functional.rngs_for_shapes()))

    @jax.jit
    def judge(rest, wave):
        return functional.merge(structure, params, rest)(wave)[family]

    real_maps, fake_maps = judge(rest, real), judge(rest, fake)
    out: dict[str, Any] = {}
    for kind, maps in (("real", real_maps), ("gen", fake_maps)):
        for d, layers in enumerate(maps):
            layers = [reference_layout(x, len(real)) for x in layers]
            out[f"d_{kind}.{d}"] = layers[-1].reshape(len(real), -1)
            for n, layer in enumerate(layers):
                out |= {f"fmap_{kind}.{d}.{n}": layer, f"fmap_{kind}_mean_abs.{d}.{n}": np.abs(layer).mean()}

    def losses(fake):
        maps = judge(rest, fake)
        parts = generator_losses([m[-1] for m in maps])
        feature = 2 * feature_losses(real_maps, maps).sum()
        return parts.sum() + feature, (parts, feature)

    (_, (parts, feature)), gradient = jax.value_and_grad(losses, has_aux=True)(jnp.asarray(fake))
    on_real, on_fake = discriminator_losses([m[-1] for m in real_maps], [m[-1] for m in fake_maps])
    out |= {
        "feature_loss": feature,
        "generator_loss": parts.sum(),
        "generator_loss_parts": parts,
        "discriminator_loss": (on_real + on_fake).sum(),
        "discriminator_loss_real": on_real,
        "discriminator_loss_gen": on_fake,
        "grad_y_hat": gradient[:, None],
    }
    if family == "scale":  # in training the reference iterates at each call: first the real, then the generated wave
        for kind, wave in (("real", real), ("gen", fake)):
            rest = power_iteration(params, rest)
            out |= {f"train.d_{kind}.{d}": m[-1].reshape(len(real), -1) for d, m in enumerate(judge(rest, wave))}
        for name, vector in functional.named(rest["scale"]).items():
            module, _, side = name.rpartition(".")
            out[f"train.after.{module}.weight_{'u' if side == 'left' else 'v'}"] = vector
    return {f"out.{name}": np.asarray(value) for name, value in out.items()}


def reference_layout(x: jax.Array, batch: int) -> np.ndarray:
    """[B, T, C] -> [B, C, T]; the period discriminators' [B * p, T, C] -> [B, C, T, p]."""
    maps = np.asarray(x)
    if len(maps) == batch:
        return maps.swapaxes(1, 2)
    return maps.reshape(batch, -1, *maps.shape[1:]).transpose(0, 3, 2, 1)


def _front_end(config: Mapping[str, Any], real: np.ndarray, fake: np.ndarray) -> Arrays:
    spec, y, y_hat = mel_from(config), jnp.asarray(real), jnp.asarray(fake)
    return {
        "out.mel": np.asarray(mel_spectrogram(y, spec)).swapaxes(1, 2),
        "out.mel_hat": np.asarray(mel_spectrogram(y_hat, spec)).swapaxes(1, 2),
        "out.mel_basis": mel_basis(spec).T,
        "out.loss_mel": np.asarray(45 * mel_l1(y_hat, y, spec)),
    }
