"""Our answers to recorded cases of jaywalnut310/vits, in its names and layouts; see tools/parity.py."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.audio.stft import linear_spectrogram, linear_to_mel, mel_spectrogram
from jaxtts.losses.gan import discriminator_losses, feature_losses, generator_losses
from jaxtts.losses.kl import sampled_kl
from jaxtts.models.hifigan.convert import discriminator_params
from jaxtts.models.hifigan.discriminators import Discriminators
from jaxtts.models.hifigan.model import GanConfig
from jaxtts.models.hifigan.parity import reference_layout
from jaxtts.models.vits.convert import config_from, convert, data_mel
from jaxtts.models.vits.model import Model, StochasticDurationPredictor
from jaxtts.nn import functional
from jaxtts.nn.alignment import expand, path_from_durations
from jaxtts.nn.masking import sequence_mask
from jaxtts.nn.spline import rational_quadratic_spline
from jaxtts.weights.fields import Fields

Arrays = dict[str, np.ndarray]


def parity(meta: Mapping[str, Any], weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> Arrays:
    """'out.*' -> our value, for a case of the model, the discriminators, the spline or the spectrograms.

    Args:
        meta: the case's meta.json.
        weights: the reference's names and layouts (none for the spline and the spectrograms).
        inputs: 'in.*' -> array.
    """
    config = meta["config"]
    x = {name.removeprefix("in."): jnp.asarray(value) for name, value in inputs.items()}
    if "x" in x:
        ours = config_from(config, weights)
        graph, _, _ = functional.structure(lambda: Model(ours, rngs=functional.rngs_for_shapes()))
        params = convert(weights, ours)
        out = jax.jit(lambda params, x: _parts(functional.merge(graph, params), x))(params, x)
        out |= _speeches(graph, params, config, x)
    elif "widths" in x:
        out = _spline(config, x)
    elif "y_hat" in x:
        out = _discriminators(config, weights, x["y"][:, 0], x["y_hat"][:, 0])
    else:
        spec = data_mel(Fields(config), config["filter_length"] // 2 + 1, config["hop_length"])
        linear = linear_spectrogram(x["y"], spec.replace(num_mels=None, log=None))
        out = {"spec": linear, "mel_from_spec": linear_to_mel(linear, spec), "mel": mel_spectrogram(x["y"], spec)}
        out = {name: value.swapaxes(1, 2) for name, value in out.items()}
    return {f"out.{name}": np.asarray(value) for name, value in out.items()}


def _parts(model: Model, x: Mapping[str, jax.Array]) -> dict[str, Any]:
    """Everything but `infer`, whose lengths are known only when it is done."""
    text, lengths = x["x"].astype(jnp.int32), x["x_lengths"].astype(jnp.int32)
    y, y_lengths = x["y"].swapaxes(1, 2), x["y_lengths"].astype(jnp.int32)
    speaker = x.get("sid")
    noise = {name.removeprefix("noise."): value for name, value in x.items() if name.startswith("noise.")}
    noise = {name: v.swapaxes(1, 2) if v.ndim == 3 else v for name, v in noise.items()}
    mask, cond = sequence_mask(y_lengths, y.shape[1]), model.speaker(speaker)

    prior = model.text_encoder(text, lengths)
    starts = (noise["slice_u"] * (y_lengths - model.config.segment_frames + 1)).astype(jnp.int32)
    output = model(
        text, lengths, y, y_lengths, speaker=speaker, noise=noise["enc_q"], duration_noise=noise.get("sdp_e_q"),
        starts=starts,
    )  # fmt: skip
    posterior = output.posterior
    out: dict[str, Any] = {
        "enc_p.h": prior.hidden,
        "enc_p.m": prior.mean,
        "enc_p.logs": prior.log_scale,
        "enc_q.z": posterior.z,
        "enc_q.m": posterior.mean,
        "enc_q.logs": posterior.log_scale,
        "flow.z_p": output.z,
        "flow.reverse_of_z": model.flow.inverse(posterior.z, mask, cond),
        "train.m_p_expanded": output.mean,
        "train.logs_p_expanded": output.log_scale,
    }
    out = {name: value.swapaxes(1, 2) for name, value in out.items()}
    out |= {
        "dec.audio": model.decode(posterior.z[:, :10], speaker=speaker)[:, None],
        "train.audio": output.wave[:, None],
        "train.l_length": output.duration_loss / jnp.sum(lengths),
        "train.attn": path_from_durations(output.durations, y.shape[1])[:, None],
        "train.ids_slice": starts,
        "train.loss_kl": sampled_kl(output.z, output.mean, output.log_scale, posterior.log_scale, mask),
    }
    predictor = model.duration_predictor
    if isinstance(predictor, StochasticDurationPredictor):
        out["sdp.nll"] = predictor.loss(prior, output.durations, cond, noise=noise["sdp_nll"])
        out["sdp.logw_reverse"] = predictor(prior, cond, noise=noise["sdp_reverse"] * 0.9)[:, None]
    else:
        out["dp.logw"] = predictor(prior, cond)[:, None]
    if "sid_tgt" in x:
        z_hat = model.converted(y, y_lengths, x["sid"], x["sid_tgt"], noise=noise["vc"])
        out["vc.z_hat"] = z_hat.swapaxes(1, 2)
        out["vc.audio"] = model.decode(z_hat, speaker=x["sid_tgt"])[:, None]
    return out


def _speeches(graph: Any, params: Any, config: Mapping[str, Any], x: Mapping[str, jax.Array]) -> dict[str, Any]:
    """`infer` with the recorded noises and without any, cut to the longest item.

    In the reference the padding of its companions leaks into an item's last frames, so lengths are not given on here.
    """
    text, lengths, speaker = x["x"].astype(jnp.int32), x["x_lengths"].astype(jnp.int32), x.get("sid")
    given = {"noise": x["noise.infer_z"].swapaxes(1, 2)}
    if "noise.infer_sdp" in x:
        given["duration_noise"] = x["noise.infer_sdp"].swapaxes(1, 2)
    scales = {
        "noise_scale": config["infer_noise_scale"],
        "duration_noise_scale": config["infer_noise_scale_w"],
        "length_scale": config["infer_length_scale"],
    }
    decode = jax.jit(lambda params, z: functional.merge(graph, params).decode(z, speaker=speaker))
    out: dict[str, Any] = {}
    for name, noises, room in (("infer", given, given["noise"].shape[1]), ("infer0", {}, 64 * text.shape[1])):

        @jax.jit
        def latent(params, noises, room=room):
            model = functional.merge(graph, params)
            return model.latent(text, lengths, max_frames=room, speaker=speaker, **scales, **noises)

        z, frames, alignment = latent(params, noises)
        length = int(frames.max())
        out[f"{name}.audio"] = decode(params, z[:, :length])[:, None]
        out[f"{name}.attn"] = alignment[:, None, :length]
    frames = out["infer.attn"].sum(axis=(1, 2, 3)).astype(jnp.int32)
    mask = sequence_mask(frames, int(frames.max()))
    out["infer.y_mask"] = mask[:, None].astype(jnp.float32)

    @jax.jit
    def samples(params, alignment):  # the reference keeps the noise behind an item's end
        model = functional.merge(graph, params)
        prior, durations = model.text_encoder(text, lengths), alignment.sum(axis=1).astype(jnp.int32)
        mean, log_scale = (expand(x, durations, mask.shape[1]) for x in (prior.mean, prior.log_scale))
        sample = mean + jnp.exp(log_scale) * given["noise"] * scales["noise_scale"]
        return sample, model.flow.inverse(sample, mask, model.speaker(speaker))

    sample, z = samples(params, out["infer.attn"][:, 0])
    return out | {"infer.z_p": sample.swapaxes(1, 2), "infer.z": z.swapaxes(1, 2)}


def _spline(config: Mapping[str, Any], x: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    out = {}
    for name, inverse in (("forward", False), ("inverse", True)):
        out[name], out[f"{name}_logabsdet"] = rational_quadratic_spline(
            x["inputs"], x["widths"], x["heights"], x["derivatives"], bound=config["tail_bound"], inverse=inverse
        )
    return out


def _discriminators(
    config: Mapping[str, Any], weights: Mapping[str, np.ndarray], real: jax.Array, fake: jax.Array
) -> dict[str, Any]:
    gan = replace(
        GanConfig.vits(),
        periods=tuple(config["periods"]),
        period_channels=tuple(config["period_channels"]),
        scale_channels=tuple(config["scale_channels"]),
        scale_groups=tuple(config["scale_groups"]),
    )
    graph, _, _ = functional.structure(lambda: Discriminators(gan, rngs=functional.rngs_for_shapes()))
    judge = functional.merge(graph, *discriminator_params(_by_family(weights), gan))
    real_maps, fake_maps = ([*maps["scale"], *maps["period"]] for maps in (judge(real), judge(fake)))
    on_real, on_fake = discriminator_losses([m[-1] for m in real_maps], [m[-1] for m in fake_maps])
    out: dict[str, Any] = {
        "feature_loss": 2 * feature_losses(real_maps, fake_maps).sum(),
        "discriminator_loss": (on_real + on_fake).sum(),
        "generator_loss": generator_losses([m[-1] for m in fake_maps]).sum(),
    }
    for kind, judged in (("real", real_maps), ("gen", fake_maps)):
        for d, maps in enumerate(judged):
            maps = [reference_layout(x, len(real)) for x in maps]
            out[f"d_{kind}.{d}"] = maps[-1].reshape(len(real), -1)
            out |= {f"fmap_{kind}.{d}.{n}": maps[n] for n in range(len(maps))}
    return out


def _by_family(weights: Mapping[str, np.ndarray]) -> Arrays:
    """The one list of the reference (first the scale, then the periods) as HiFi-GAN's two."""
    renamed = {}
    for name, weight in weights.items():
        discriminators, number, rest = name.split(".", 2)
        family, place = ("msd", 0) if number == "0" else ("mpd", int(number) - 1)
        renamed[f"{family}.{discriminators}.{place}.{rest}"] = weight
    return renamed
