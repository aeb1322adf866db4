"""Records cases.npz from jik876/hifi-gan (commit 4769534); needs torch and a checkout of it.

    python tests/golden/hifigan/record.py CHECKOUT

Small generators and narrow discriminators with random weights of every kind, in the layout of tools/parity.py:
<case>/meta (JSON), <case>/w/<name>, <case>/in.<name>, <case>/out.<name>.
"""

# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

sys.path.insert(0, sys.argv[1])
import models

BASE = {"upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 4], "upsample_initial_channel": 8,
        "resblock_kernel_sizes": [3, 5]}  # fmt: skip
GENERATORS = {
    "generator_resblock1": BASE | {"resblock": "1", "resblock_dilation_sizes": [[1, 3, 5], [1, 2, 4]]},
    "generator_resblock2": BASE | {"resblock": "2", "resblock_dilation_sizes": [[1, 2], [2, 6]]},
}
PERIODS, PERIOD_CHANNELS = [2, 5], [2, 4, 6, 8, 8]
SCALE_CHANNELS = [16, 16, 16, 16, 16, 16, 8]


def randomize(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            scale = {"bias": 0.1, "weight_g": 1.0}.get(name.rpartition(".")[2], 0.3)
            parameter.copy_(torch.randn_like(parameter) * scale + (0.5 if name.endswith("weight_g") else 0.0))
    return module.eval()


def narrow(discriminator: nn.Module, channels: list[int]) -> None:
    widths = [1, *channels]
    for n, conv in enumerate(discriminator.convs):
        discriminator.convs[n] = rebuilt(conv, widths[n], widths[n + 1])
    discriminator.conv_post = rebuilt(discriminator.conv_post, widths[-1], 1)


def rebuilt(conv: nn.Module, i: int, o: int) -> nn.Module:
    norm = models.spectral_norm if hasattr(conv, "weight_u") else models.weight_norm
    kind = type(conv)
    return norm(kind(i, o, conv.kernel_size, conv.stride, conv.padding, groups=conv.groups))


def main() -> None:
    torch.manual_seed(0)
    found: dict[str, np.ndarray] = {}

    def record(case: str, config: dict, module: nn.Module, inputs: dict, outputs: dict) -> None:
        found[f"{case}/meta"] = np.array(json.dumps({"system": "hifigan", "config": config}))
        arrays = {f"w/{k}": v for k, v in module.state_dict().items()}
        arrays |= {f"in.{k}": v for k, v in inputs.items()} | {f"out.{k}": v for k, v in outputs.items()}
        found.update({f"{case}/{k}": v.detach().numpy().copy() for k, v in arrays.items()})

    for case, config in GENERATORS.items():
        generator = randomize(models.Generator(SimpleNamespace(**config)))
        mel = torch.randn(2, 80, 9)
        record(case, config, generator, {"mel": mel}, {"audio": generator(mel)})

    real, fake = torch.randn(2, 1, 601) * 0.3, torch.randn(2, 1, 601) * 0.3
    mpd = models.MultiPeriodDiscriminator()
    mpd.discriminators = nn.ModuleList([models.DiscriminatorP(p) for p in PERIODS])
    msd = models.MultiScaleDiscriminator()
    for discriminators, channels in ((mpd.discriminators, PERIOD_CHANNELS), (msd.discriminators, SCALE_CHANNELS)):
        for discriminator in discriminators:
            narrow(discriminator, channels)
    for case, net, channels in (("mpd", mpd, PERIOD_CHANNELS), ("msd", msd, SCALE_CHANNELS)):
        randomize(net)
        if case == "msd":  # singular vectors that belong to the weights, nearly
            with torch.no_grad():
                net.train()(real, fake)
            net.eval()
        config = {"conv_channels": channels, "periods": PERIODS if case == "mpd" else None}
        wave = fake.clone().requires_grad_()
        scores_real, scores_fake, maps_real, maps_fake = net(real, wave)
        loss_d, parts_real, parts_fake = models.discriminator_loss(scores_real, scores_fake)
        loss_g, parts = models.generator_loss(scores_fake)
        feature = models.feature_loss(maps_real, maps_fake)
        (gradient,) = torch.autograd.grad(loss_g + feature, wave)
        outputs = {f"d_real.{n}": s for n, s in enumerate(scores_real)}
        outputs |= {
            f"fmap_gen_mean_abs.{n}.{k}": m.abs().mean() for n, d in enumerate(maps_fake) for k, m in enumerate(d)
        }
        outputs |= {"feature_loss": feature, "discriminator_loss": loss_d, "generator_loss": loss_g,
                    "discriminator_loss_real": torch.tensor(parts_real), "generator_loss_parts": torch.stack(parts),
                    "discriminator_loss_gen": torch.tensor(parts_fake), "grad_y_hat": gradient}  # fmt: skip
        weights = {k: v.clone() for k, v in net.state_dict().items()}
        if case == "msd":
            net.train()
            with torch.no_grad():
                scores_real, scores_fake, _, _ = net(real, fake)
            outputs |= {"train.d_real.0": scores_real[0], "train.d_gen.0": scores_fake[0]}
            after = net.state_dict()
            outputs |= {
                f"train.after.{name}": after[name].clone()
                for name in after
                if name.endswith(("convs.2.weight_u", "post.weight_v")) and name.startswith("discriminators.0")
            }
            net.load_state_dict(weights)
        record(case, config, net, {"y": real, "y_hat": fake}, outputs)
    np.savez_compressed(Path(__file__).with_name("cases.npz"), **found)


main()
