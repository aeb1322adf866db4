# type: ignore  # torch is not installed where types are checked, and its modules have few
"""The rows of bench.py about WaveNet: 30 layers of 64 channels with 256 classes, and r9y9's default of 24 of 128.

The peer of the first is written for this comparison: the loop over samples that anyone would write in torch, with
queues of past inputs and no convolution. That of the second is `incremental_forward` of r9y9/wavenet_vocoder, where the
variable WAVENET_VOCODER_CHECKOUT names a checkout of it. Both have the same weights as ours, and must expect of each
sample of a wave what ours expects before anything is timed.
"""

import importlib
import os
import sys
from dataclasses import replace
from typing import Any

import numpy as np

SAMPLES = 2048  # 8 frames
STREAMS = 32


def synthesis(rounds: int) -> list[dict[str, Any]]:
    """One stream of both models, and many streams of the first, float32: CPU time a sample."""
    import bench
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from jaxtts.models.wavenet import Config, Model
    from jaxtts.nn.functional import merge, split
    from jaxtts.nn.output import Output

    torch, rows = bench.optional("torch"), []
    small = Config(
        conditional=False, output=Output("softmax", 256), num_layers=30, num_stacks=3, channels=64, gate_channels=128,
        skip_channels=256, kernel_size=2, weight_norm=False,
    )  # fmt: skip
    cases = [("30 layers, one stream", small, 1), (f"30 layers, {STREAMS} streams", small, STREAMS)]
    for name, config, batch in [*cases, ("r9y9's default, one stream", Config(weight_norm=False), 1)]:
        graph, params, _ = split(Model(config, rngs=nnx.Rngs(0)))
        params = jax.device_put(params)
        mel = np.random.default_rng(0).standard_normal((batch, SAMPLES // 256, 80)).astype(np.float32)
        seeds = jnp.arange(batch, dtype=jnp.uint32)

        @jax.jit
        def made(params, mel, graph=graph, config=config, seeds=seeds):
            model = merge(graph, params)
            cond = model.condition(mel) if config.conditional else jnp.zeros((len(mel), SAMPLES, 0))
            return model.generate(cond, lambda place: config.output.draws(seeds, place))

        peer, who = None, "none"
        if torch and config is small:
            peer, who = torch_loop(graph, params, config, batch), "torch"
        elif torch and (theirs := r9y9(config, mel)):
            (peer, params), who = theirs, "r9y9"

        def ours(made=made, params=params, mel=mel):
            return jax.block_until_ready(made(params, mel))

        scale = 1e6 / (SAMPLES * batch)
        row = bench.compare(f"wavenet, {name}, peer {who}", "CPU us per sample", scale, rounds, ours=ours, peer=peer)
        rows.append(row)
    return rows


def torch_loop(graph: Any, params: Any, config: Any, batch: int) -> Any:
    """The loop of the 30 layers; makes SAMPLES of each stream."""
    import bench
    import jax
    import jax.numpy as jnp
    import torch

    from jaxtts.models.wavenet.task import shifted
    from jaxtts.nn.functional import merge

    model = merge(graph, params)
    steps, bias = model.network.steps(), np.asarray(model.network.prepare(None))
    dilations = model.network.layers.dilations
    first, weights, last = jax.tree.map(lambda x: torch.from_numpy(np.array(x)), steps)
    told = torch.from_numpy(np.array(bias)).chunk(len(dilations))

    @torch.no_grad()
    def loop(batch: int, forced: Any = None) -> Any:
        queues = [torch.zeros(d, batch, config.channels) for d in dilations]
        value, made = torch.full((batch,), 128 if forced is None else int(forced[0, 0])), []
        for n in range(SAMPLES if forced is None else forced.shape[1]):
            if forced is not None:
                value = forced[:, n]
            x, values = first[0][value] + first[1], []
            for i, queue in enumerate(queues):
                slot = n % len(queue)
                y = torch.addmm(told[i], torch.cat([queue[slot], x], 1), weights.gates[i])
                queue[slot] = x
                a, b = y.chunk(2, 1)
                values.append(torch.tanh(a) * torch.sigmoid(b))
                if i < len(weights.residuals):
                    mixed = torch.addmm(weights.residual_biases[i], values[-1], weights.residuals[i])
                    x = (x + mixed) * 0.5**0.5
            y = torch.addmm(weights.skip_bias, torch.cat(values, 1), weights.skip) * len(dilations) ** -0.5
            for kernel, bias in last:
                y = torch.addmm(bias, torch.relu(y), kernel)
            if forced is None:
                value = torch.multinomial(torch.softmax(y, 1), 1)[:, 0]
            made.append(value if forced is None else y)
        return torch.stack(made, 1)

    wave = np.random.default_rng(1).uniform(-0.9, 0.9, (1, 600)).astype(np.float32)
    previous = shifted(config.output.encode(jnp.asarray(wave)), config)
    expected = jax.jit(lambda params: merge(graph, params)(None, previous))(params)
    bench.require_same(loop(1, torch.from_numpy(np.array(previous)).long()).numpy(), expected)
    return lambda: loop(batch)


def r9y9(config: Any, mel: np.ndarray) -> Any:
    """r9y9's network and our parameters that are its own; None without the checkout."""
    folder = os.environ.get("WAVENET_VOCODER_CHECKOUT")
    if not folder:
        return None
    import bench
    import jax
    import torch

    from jaxtts.models.wavenet import Model
    from jaxtts.models.wavenet.convert import convert
    from jaxtts.nn.functional import fold_weight_norm, merge, rngs_for_shapes, structure

    normed = replace(config, weight_norm=True)
    sys.path.insert(0, folder)
    net = importlib.import_module("wavenet_vocoder").WaveNet(
        out_channels=config.output.width, layers=config.num_layers, stacks=config.num_stacks,
        residual_channels=config.channels, gate_channels=config.gate_channels, skip_out_channels=config.skip_channels,
        kernel_size=config.kernel_size, dropout=0.0, cin_channels=config.mel.num_bins, cin_pad=config.context,
        upsample_conditional_features=True, scalar_input=True,
        upsample_params={"upsample_scales": list(config.upsample_scales), "cin_channels": config.mel.num_bins,
                         "cin_pad": config.context},
    ).eval()  # fmt: skip
    sys.path.remove(folder)
    params = convert({name: x.numpy() for name, x in net.state_dict().items()}, normed)
    told = torch.from_numpy(np.pad(mel, ((0, 0), (config.context,) * 2, (0, 0)), mode="edge")).transpose(1, 2)
    previous = np.random.default_rng(1).uniform(-0.9, 0.9, (1, SAMPLES)).astype(np.float32)
    graph = structure(lambda: Model(normed, rngs=rngs_for_shapes()))[0]
    with torch.no_grad():
        net.make_generation_fast_()
        theirs = net(torch.from_numpy(previous)[:, None], told)[0].T
    bench.require_same(theirs.numpy(), jax.jit(lambda params: merge(graph, params)(mel, previous))(params)[0])

    @torch.no_grad()
    def loop() -> Any:
        return net.incremental_forward(c=told, T=SAMPLES, log_scale_min=config.output.log_scale_min)

    return loop, fold_weight_norm(params)
