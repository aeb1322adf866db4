"""Checkpoints of jik876/hifi-gan under our names: generators (`g_*`) and discriminators (`do_*`).

Both spellings of weight norm are read, and folded weights; modules have the reference's names. Spectral norm's
`weight_orig`, `weight_u` and `weight_v` become the convolution's kernel and the vectors `left` and `right`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtts.audio.spec import MelSpec, mel_spec
from jaxtts.models.hifigan.discriminators import Discriminators
from jaxtts.models.hifigan.model import Config, GanConfig, Generator
from jaxtts.nn import functional
from jaxtts.nn.functional import Tree
from jaxtts.weights.match import Rule, layer, load_into

GENERATOR_RULES = [
    *layer(r"(conv_pre|conv_post|resblocks\.\d+\.convs[12]?\.\d+)", r"\1", "conv"),
    *layer(r"(ups\.\d+)", r"\1", "conv_transpose"),
]
_CONV = r"(?:convs\.\d+|conv_post)"
SPECTRAL_RULES = [  # `weight_v` is a singular vector beside `weight_orig`, and a direction beside `weight_g`
    Rule(rf"(scale\.discriminators\.0\.{_CONV})\.weight_orig", r"\1.conv.kernel", "conv"),
    Rule(rf"(scale\.discriminators\.0\.{_CONV})\.weight_u", r"\1.left"),
    Rule(rf"(scale\.discriminators\.0\.{_CONV})\.weight_v", r"\1.right"),
]
DISCRIMINATOR_RULES = [
    *layer(rf"((?:period|scale)\.discriminators\.\d+\.{_CONV})", r"\1", "conv"),
]
_FAMILIES = {"mpd": "period", "msd": "scale"}


def config_from(reference: Mapping[str, Any]) -> Config:
    """Our configuration of the reference's `config.json` (or of the part of it that describes the generator).

    Raises:
        ValueError: a field is missing or of another kind of model.
    """
    needed = ("resblock", "upsample_rates", "upsample_kernel_sizes", "upsample_initial_channel",
              "resblock_kernel_sizes", "resblock_dilation_sizes")  # fmt: skip
    missing = [name for name in needed if name not in reference]
    if missing:
        raise ValueError(f"the HiFi-GAN config lacks {', '.join(missing)}; give the config.json beside the checkpoint")
    rates = tuple(map(int, reference["upsample_rates"]))
    return Config(
        mel=mel_from(reference, int(np.prod(rates))),
        resblock=int(reference["resblock"]),
        upsample_rates=rates,
        upsample_kernel_sizes=tuple(map(int, reference["upsample_kernel_sizes"])),
        upsample_channels=int(reference["upsample_initial_channel"]),
        resblock_kernel_sizes=tuple(map(int, reference["resblock_kernel_sizes"])),
        resblock_dilations=tuple(tuple(map(int, d)) for d in reference["resblock_dilation_sizes"]),
    )


def mel_from(reference: Mapping[str, Any], hop_length: int = 256) -> MelSpec:
    """The mel spec of the reference's `config.json`; what it does not state is as in its published ones."""
    default = mel_spec("hifigan")
    n_fft = int(reference.get("n_fft", max(default.n_fft, 4 * hop_length)))
    hop_length = int(reference.get("hop_size", hop_length))
    spec = MelSpec(
        "hifigan",
        int(reference.get("sampling_rate", default.sample_rate)),
        n_fft,
        hop_length,
        int(reference.get("win_size", n_fft)),
        int(reference.get("num_mels", default.num_mels)),
        float(reference.get("fmin", default.fmin)),
        None if reference.get("fmax", default.fmax) is None else float(reference.get("fmax", default.fmax)),
        magnitude_eps=default.magnitude_eps,
        padding="center" if (n_fft - hop_length) % 2 else "same",
    )
    return spec if spec == default else spec.replace(name="hifigan_custom")


def generator_params(weights: Mapping[str, np.ndarray], config: Config) -> Tree:
    """The generator's parameters, weight norm folded where `config.weight_norm` is False.

    Args:
        weights: the reference's names, as `read_weights` gives them of a `g_*` file.

    Raises:
        ValueError: lists all names that are missing, unexpected or misshapen.
    """
    _, params, _ = functional.structure(lambda: Generator(config, rngs=functional.rngs_for_shapes()))
    return functional.nested(load_into(functional.named(params), weights, GENERATOR_RULES))


def discriminator_params(weights: Mapping[str, np.ndarray], gan: GanConfig = GanConfig()) -> tuple[Tree, Tree]:  # noqa: B008
    """The discriminators' (parameters, singular vectors).

    Args:
        weights: names beginning with 'mpd.' and 'msd.', as `read_weights` gives them of a `do_*` file.

    Raises:
        ValueError: lists all names that are missing, unexpected or misshapen.
    """
    _, params, rest = functional.structure(lambda: Discriminators(gan, rngs=functional.rngs_for_shapes()))
    params, rest = functional.named(params), functional.named(rest)
    renamed = {".".join([_FAMILIES.get(net, net), name]): w for (net, _, name), w in _partitioned(weights)}
    rules = [*SPECTRAL_RULES, *DISCRIMINATOR_RULES] if gan.scale_spectral_norm else DISCRIMINATOR_RULES
    loaded = load_into(params | rest, renamed, rules)
    params, rest = (functional.nested({name: loaded[name] for name in part}) for part in (params, rest))
    return params, rest


def _partitioned(weights: Mapping[str, np.ndarray]) -> list[tuple[tuple[str, str, str], np.ndarray]]:
    return [(name.partition("."), weight) for name, weight in weights.items()]
