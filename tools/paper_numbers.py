#!/usr/bin/env python3
"""Prints the figures that papers and reference implementations are known for beside ours, counted from our code.

    python tools/paper_numbers.py [MODEL ...]

A parameter count is of the configuration named in the row, built without allocating anything. 'paper' rows are what
the paper prints, rounded as there; 'reference' rows were counted on the reference implementation. Exit status 0 only
if every row agrees.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtts.models import (
    glow_tts,
    hifigan,
    melgan,
    parallel_wavenet,
    tacotron,
    tacotron2,
    vits,
    waveglow,
    wavenet,
    wavernn,
    wavernn_dual,
)
from jaxtts.models.hifigan.discriminators import Discriminators
from jaxtts.models.hifigan.model import GanConfig
from jaxtts.nn.functional import Tree, count_parameters, merge, named, rngs_for_shapes, split, structure


class Row(NamedTuple):
    """One figure: what it is, where it is from, what it is there, what we count."""

    system: str
    quantity: str
    source: str
    known: float
    count: Callable[[], float]
    rounded_to: float = 1


def main(argv: list[str] | None = None) -> int:
    rows = [*glow_tts_rows(), *hifigan_rows(), *melgan_rows(), *tacotron_rows(), *tacotron2_rows(), *vits_rows()]
    rows += [*waveglow_rows(), *wavenet_rows(), *wavernn_rows()]
    systems = sorted({row.system for row in rows})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", metavar="MODEL", help=f"of: {', '.join(systems)}; default all")
    args = parser.parse_args(argv)
    if unknown := set(args.systems) - set(systems):
        parser.error(f"no figures of {', '.join(sorted(unknown))}; there are {', '.join(systems)}")
    wrong = 0
    print(f"{'system':10} {'quantity':44} {'known':>12} {'ours':>12}  verdict    source")
    for row in rows:
        if args.systems and row.system not in args.systems:
            continue
        ours = row.count()
        agrees = round(ours / row.rounded_to) == round(row.known / row.rounded_to)
        wrong += not agrees
        verdict = "DIFFERS" if not agrees else "equal" if ours == row.known else "rounded"
        print(f"{row.system:10} {row.quantity:44} {row.known:12,.0f} {ours:12,.0f}  {verdict:9}  {row.source}")
    return int(wrong > 0)


def parameters(build: Callable[[], nnx.Module]) -> Tree:
    return structure(build)[1]


def glow_tts_rows() -> Iterator[Row]:
    """arXiv 2005.11129; jaywalnut310/glow-tts@13e9976 configs/base.json and base_blank.json; coqui-tts 0.28."""

    def tree(config: Any) -> Tree:
        return parameters(lambda: glow_tts.Model(config, rngs=nnx.Rngs(0)))

    base, coqui = glow_tts.Config(), glow_tts.Config.coqui(num_symbols=129)
    reference = "reference jaywalnut310/glow-tts@13e9976"
    rows: list[tuple[str, str, float, Callable[[], float], float]] = [
        ("parameters", "paper section 5.2", 28_600_000, lambda: count_parameters(tree(base)), 1e5),
        ("parameters, 148 symbols", reference, 28_623_889, lambda: count_parameters(tree(base)), 1),
        (
            "parameters, 149 symbols",
            reference,
            28_624_081,
            lambda: count_parameters(tree(dataclasses.replace(base, num_symbols=149))),
            1,
        ),
        (
            "parameters, weight norm folded",
            reference,
            28_587_025,
            lambda: count_parameters(tree(dataclasses.replace(base, weight_norm=False))),
            1,
        ),
        (
            "encoder and duration predictor",
            reference,
            7_199_953,
            lambda: count_parameters({k: v for k, v in tree(base).items() if k != "decoder"}),
            1,
        ),
        ("duration predictor", reference, 345_857, lambda: count_parameters(tree(base)["duration_predictor"]), 1),
        ("decoder", reference, 21_423_936, lambda: count_parameters(tree(base)["decoder"]), 1),
        ("Coqui, 129 symbols", "reference coqui-tts", 28_609_873, lambda: count_parameters(tree(coqui)), 1),
        (
            "Coqui, WaveNets folded, inverses stored",
            "reference coqui-tts after store_inverse",
            28_575_505,
            lambda: (
                count_parameters(
                    {n: p for n, p in named(tree(coqui)).items() if not (".wavenet." in n and n.endswith(".g"))}
                )
                + coqui.decoder_blocks * coqui.num_splits**2
            ),
            1,
        ),
    ]
    for quantity, source, known, count, unit in rows:
        yield Row("glow_tts", quantity, source, known, count, unit)


def hifigan_rows() -> Iterator[Row]:
    """arXiv 2010.05646 table 1; jik876/hifi-gan@4769534."""

    def generator(config: Any) -> float:
        return count_parameters(parameters(lambda: hifigan.Model(config, rngs=nnx.Rngs(0))))

    reference = "reference jik876/hifi-gan@4769534"
    variants = {
        "V1": (hifigan.Config.v1(), 13_920_000, 13_936_130, 13_926_017),
        "V2": (hifigan.Config.v2(), 920_000, 928_514, 925_985),
        "V3": (hifigan.Config.v3(), 1_460_000, 1_464_322, 1_462_273),
    }
    for name, (config, paper, normed, folded) in variants.items():
        plain = dataclasses.replace(config, weight_norm=False)

        def truncated(config: Any = plain) -> float:
            return generator(config) // 1e4 * 1e4

        yield Row("hifigan", f"{name} parameters, cut to 10,000", "paper table 1", paper, truncated)
        yield Row("hifigan", f"{name} parameters", reference, normed, lambda c=config: generator(c))
        yield Row("hifigan", f"{name} parameters, weight norm folded", reference, folded, lambda c=plain: generator(c))
    judges = parameters(lambda: Discriminators(GanConfig(), rngs=nnx.Rngs(0)))
    for name, family, known in (("MPD", "period", 41_105_770), ("MSD", "scale", 29_618_821)):
        yield Row("hifigan", f"{name} parameters", reference, known, lambda f=family: count_parameters(judges[f]))
    yield Row("hifigan", "V1 receptive field in frames", reference, 26, hifigan_receptive_field)


def hifigan_receptive_field() -> float:
    """Whole frames that one frame reaches: the samples that turn NaN when one mel frame is NaN, over the hop."""
    config = dataclasses.replace(hifigan.Config.v1(), upsample_channels=16, weight_norm=False)
    graph, params, rest = split(hifigan.Model(config, rngs=nnx.Rngs(0)))
    frames = 65
    mel = jnp.zeros((1, frames, 80)).at[0, frames // 2].set(jnp.nan)
    wave = np.asarray(jax.jit(lambda mel: merge(graph, params, rest).infer(mel))(mel))
    hop = wave.shape[1] // frames
    return int(np.isnan(wave).sum() // hop)


def melgan_rows() -> Iterator[Row]:
    """arXiv 1910.06711 table 1; arXiv 2010.05646 table 1 has the same."""
    plain = melgan.Config(weight_norm=False)
    tree = parameters(lambda: melgan.Model(plain, rngs=rngs_for_shapes()))
    yield Row("melgan", "parameters", "paper table 1", 4_260_000, lambda: count_parameters(tree), 1e4)


def wavenet_rows() -> Iterator[Row]:
    """arXiv 1712.05884 section 2.3; r9y9/wavenet_vocoder@a35fff7; ksw0306/ClariNet@df31b4c."""

    def count(models: Any, config: Any, unused: tuple[int, int] = (0, 0), layers: int = 1) -> float:
        """Theirs have a residual output behind the last layer of each network, which leads nowhere: I * O + 2 * O."""
        inputs, outputs = unused
        tree = parameters(lambda: models.Model(config, rngs=rngs_for_shapes()))
        return count_parameters(tree) + layers * (inputs * outputs + 2 * outputs)

    r9y9, clarinet = "reference r9y9/wavenet_vocoder@a35fff7", "reference ksw0306/ClariNet@df31b4c"
    named_configs = {
        "mixture of logistics": (3_720_932, wavenet.Config()),
        "Gaussian": (3_717_292, wavenet.Config.gaussian()),
        "256 classes": (4_699_944, wavenet.Config.mulaw()),
    }
    for name, (known, config) in named_configs.items():
        yield Row("wavenet", name, r9y9, known, lambda config=config: count(wavenet, config, (128, 128)))
    teacher = wavenet.Config.clarinet()
    yield Row("wavenet", "ClariNet's teacher", clarinet, 4_824_008, lambda: count(wavenet, teacher, (256, 128)))
    yield Row("wavenet", "the same, samples seen", clarinet, 2078, lambda: teacher.samples_seen)
    for layers, cycles, known in ((30, 3, 6139), (24, 4, 505), (12, 2, 253), (30, 30, 61)):
        seen = wavenet.Config(num_layers=layers, num_stacks=cycles).samples_seen
        yield Row(
            "wavenet", f"{layers} layers, {cycles} cycles: samples seen", "1712.05884 table 4", known, lambda n=seen: n
        )

    def student(flows: tuple[int, ...]) -> Any:
        return parallel_wavenet.Config.clarinet(flow_layers=flows)

    def flows_alone(flows: tuple[int, ...]) -> float:
        """Theirs has no upsampling, which is the teacher's."""
        config = student(flows)
        tree = parameters(lambda: parallel_wavenet.Model(config, rngs=rngs_for_shapes()))["flows"]
        return count_parameters(tree) + len(flows) * (128 * 64 + 2 * 64)

    for flows, known, seen in (((10,) * 6, 5_276_952, 12_463), ((10, 10, 10, 40), 6_136_848, 14_447)):
        name = f"ClariNet's student, {'/'.join(map(str, flows))}"
        yield Row("parallel_wavenet", name, clarinet, known, lambda flows=flows: flows_alone(flows))
        # theirs leaves out that each flow looks one sample further back
        reach = student(flows).samples_seen - len(flows)
        yield Row("parallel_wavenet", "the same, samples seen", clarinet, seen, lambda reach=reach: reach)


def tacotron_rows() -> Iterator[Row]:
    """arXiv 1703.10135; keithito/tacotron; coqui-tts 0.28; CorentinJ/Real-Time-Voice-Cloning@865eba8."""

    def tree(config: Any) -> Tree:
        return parameters(lambda: tacotron.Model(config, rngs=rngs_for_shapes()))

    def theirs(config: Any) -> float:
        """Without the GRUs' second bias, which TensorFlow's have not, and the stop layer, which keithito's has not."""
        kept = {n: x for n, x in named(tree(config)).items() if ".hidden_bias" not in n and ".stop." not in n}
        return count_parameters(kept)

    paper, keithito = tacotron.Config(), tacotron.Config(num_symbols=149, reduction_factor=5)
    layers = "table 1, keithito/tacotron"
    yield Row("tacotron", "66 symbols, 2 frames a step", layers, 6_977_297, lambda: theirs(paper))
    yield Row("tacotron", "149 symbols, 5 frames a step", layers, 7_060_225, lambda: theirs(keithito))
    for name, source, known, config in (
        ("Coqui, 67 symbols", "reference coqui-tts", 6_786_851, tacotron.Config.coqui()),
        ("RTVC's synthesizer", "reference RTVC@865eba8", 30_870_177, tacotron.Config.rtvc()),
    ):
        yield Row("tacotron", name, source, known, lambda config=config: count_parameters(tree(config)))


def tacotron2_rows() -> Iterator[Row]:
    """arXiv 1712.05884; NVIDIA/tacotron2@185cd24."""
    tree = parameters(lambda: tacotron2.Model(tacotron2.Config(), rngs=rngs_for_shapes()))
    reference = "reference NVIDIA/tacotron2@185cd24"
    yield Row("tacotron2", "parameters", reference, 28_193_153, lambda: count_parameters(tree))
    parts = {"encoder": 5_513_728 + 75_776, "decoder": 18_255_505, "postnet": 4_348_144}  # symbols are the encoder's
    for part, known in parts.items():
        yield Row("tacotron2", part, reference, known, lambda part=part: count_parameters(tree[part]))


def waveglow_rows() -> Iterator[Row]:
    """arXiv 1811.00002; NVIDIA/waveglow@8afb643; the size of its published model also in arXiv 2010.05646 table 1."""

    def count(config: Any) -> float:
        return count_parameters(parameters(lambda: waveglow.Model(config, rngs=rngs_for_shapes())))

    reference = "reference NVIDIA/waveglow@8afb643"
    for name, config, normed, folded in (
        ("256 channels", waveglow.Config(), 87_879_272, 87_731_816),
        ("512 channels", waveglow.Config.large(), 268_294_760, 267_999_848),
    ):
        plain = dataclasses.replace(config, weight_norm=False)
        yield Row("waveglow", f"{name}, parameters", reference, normed, lambda c=config: count(c))
        yield Row("waveglow", f"{name}, weight norm folded", reference, folded, lambda c=plain: count(c))
    plain = waveglow.Config(weight_norm=False)
    yield Row("waveglow", "parameters", "paper 2010.05646 table 1", 87_730_000, lambda: count(plain), 1e4)


def wavernn_rows() -> Iterator[Row]:
    """fatchord/WaveRNN@83c08fd, both versions; CorentinJ/Real-Time-Voice-Cloning@865eba8; arXiv 1802.08435."""

    def count(module: Any, config: Any) -> float:
        return count_parameters(parameters(lambda: module.Model(config, rngs=rngs_for_shapes())))

    reference, cloning = "reference fatchord/WaveRNN@83c08fd", "reference RTVC@865eba8"
    for quantity, source, known, config in (
        ("mixture of logistics", reference, 4_233_675, wavernn.Config()),
        ("9 bits", reference, 4_480_941, wavernn.Config.raw()),
        ("9 bits, hop of 5 x 5 x 8, not 5 x 5 x 11", cloning, 4_480_935, wavernn.Config.rtvc()),
    ):
        yield Row("wavernn", quantity, source, known, lambda config=config: count(wavernn, config))
    dual = wavernn_dual.Config.unconditional()
    for source, known, unit in ((reference, 3_050_048, 1), ("paper, 'about 3M'", 3_000_000, 1e6)):
        yield Row("wavernn", "dual softmax, 896 units", source, known, lambda: count(wavernn_dual, dual), unit)


def vits_rows() -> Iterator[Row]:
    """arXiv 2106.06103; jaywalnut310/vits@2e561ba configs/ljs_base.json, ljs_nosdp.json and vctk_base.json."""

    def tree(config: Any) -> Tree:
        return parameters(lambda: vits.Model(config, rngs=nnx.Rngs(0)))

    reference = "reference jaywalnut310/vits@2e561ba"
    base = tree(vits.Config())
    parts = {
        "text_encoder": 6_326_784,
        "decoder": 14_337_024,
        "posterior_encoder": 7_238_016,
        "flow": 7_102_080,
        "duration_predictor": 1_317_168,
    }
    yield Row("vits", "LJ Speech, parameters", reference, 36_321_072, lambda: count_parameters(base))
    for part, known in parts.items():
        yield Row("vits", f"LJ Speech, {part}", reference, known, lambda part=part: count_parameters(base[part]))
    spoken = {
        n: x for n, x in named(base).items() if not n.startswith(("posterior_encoder", "duration_predictor.post"))
    }
    yield Row("vits", "LJ Speech, what speaking needs", reference, 28_442_808, lambda: count_parameters(spoken))
    plain = vits.Config(stochastic_durations=False)
    yield Row("vits", "LJ Speech, plain durations", reference, 35_349_761, lambda: count_parameters(tree(plain)))
    several = vits.Config.vctk()
    yield Row("vits", "VCTK, 109 speakers", reference, 39_700_208, lambda: count_parameters(tree(several)))
    judges = parameters(lambda: Discriminators(GanConfig.vits(), rngs=nnx.Rngs(0)))
    yield Row("vits", "discriminators", reference, 46_747_132, lambda: count_parameters(judges))
    whole = "paper 2211.06892"
    yield Row("vits", "with its discriminators", whole, 83_100_000, lambda: count_parameters({**base, **judges}), 1e5)


if __name__ == "__main__":
    sys.exit(main())
