"""The student of ksw0306/ClariNet under our names; the upsampling is its teacher's (`models.wavenet.convert`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtts.models.parallel_wavenet.model import Config, Model
from jaxtts.models.wavenet.convert import clarinet_config, clarinet_joined, clarinet_network, convert_clarinet
from jaxtts.nn.functional import Tree, named, nested, rngs_for_shapes, structure
from jaxtts.weights.match import load_into

Weights = Mapping[str, np.ndarray]


def config_from(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> Config:
    """Our Config from the arguments of ksw0306/ClariNet's `Wavenet` and `Wavenet_Student`."""
    layers = student["num_layers"]
    return Config.clarinet(
        teacher=clarinet_config(teacher),
        flow_layers=tuple(blocks * layers for blocks in student["num_blocks_student"]),
        stack_layers=layers,
        channels=student["residual_channels"],
        gate_channels=2 * student["gate_channels"],
        skip_channels=student["skip_channels"],
        kernel_size=student["kernel_size"],
        first_kernel_size=student["front_channels"],
    )


def convert(teacher: Weights, student: Weights, config: Config) -> tuple[Tree, Tree]:
    """The state dicts of both -> the parameters of the teacher's model and of `Model(config)`.

    Raises:
        ValueError: lists every missing, unexpected and misshapen name.
    """
    ours = convert_clarinet(teacher, config.teacher)
    _, params, _ = structure(lambda: Model(config, rngs=rngs_for_shapes()))
    joined, rules = dict(student), []
    for k, layers in enumerate(config.flow_layers):
        joined = clarinet_joined(joined, layers, f"iafs.{k}.")
        rules += clarinet_network(layers, rf"iafs\.{k}\.", f"flows.{k}.network.network.")
    flows = load_into({n: x for n, x in named(params).items() if n.startswith("flows.")}, joined, rules)
    return ours, nested(flows) | {"upsample": ours["upsample"]}
