"""Our answers to recorded cases of ksw0306/ClariNet, in its names and layouts; see tools/parity.py."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtts.losses.kl import gaussian_kl
from jaxtts.losses.spectral import magnitude_mse, stft_magnitudes
from jaxtts.models.parallel_wavenet.convert import config_from, convert
from jaxtts.models.parallel_wavenet.model import Model
from jaxtts.models.wavenet.model import Model as Teacher
from jaxtts.nn.functional import merge, rngs_for_shapes, structure

REGULARISER = 4.0


def parity(
    meta: Mapping[str, Any], weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """'out.*' -> our value.

    Args:
        meta: the case's meta.json.
        weights: the reference's names and layouts, 'teacher.*' and 'student.*'.
        inputs: 'in.*' -> array.
    """
    config = config_from(meta["config"]["teacher"], meta["config"]["student"])
    theirs = {
        side: {name.removeprefix(f"{side}."): x for name, x in weights.items() if name.startswith(f"{side}.")}
        for side in ("teacher", "student")
    }
    taught, learned = convert(theirs["teacher"], theirs["student"], config)
    graph = structure(lambda: Model(config, rngs=rngs_for_shapes()))[0]
    teaching = structure(lambda: Teacher(config.teacher, rngs=rngs_for_shapes()))[0]
    x, z = (jnp.asarray(inputs[f"in.{name}"])[:, 0] for name in ("x", "z"))
    mel = jnp.asarray(inputs["in.c"]).swapaxes(1, 2)

    @jax.jit
    def answer(taught, learned):
        teacher, student = merge(teaching, taught), merge(graph, learned)
        cond = teacher.condition(mel)

        def expects(wave):
            return teacher.network(teacher.network.read(wave), cond)

        heard = expects(x)
        nll = config.teacher.output.nll(heard[:, :-1], x[:, 1:])
        wave, mean, log_scale = student.made(z, cond)
        told = expects(wave)
        out = {
            "c_up": cond.swapaxes(1, 2),
            "teacher_out": heard.swapaxes(1, 2),
            "teacher_nll": nll,
            "teacher_loss": jnp.mean(nll),
            "student_x": wave[:, None],
            "student_mu": mean[:, None],
            "student_logs": log_scale[:, None],
            "teacher_on_student": told.swapaxes(1, 2),
            "stft_mean": jnp.mean(stft_magnitudes(x[:, 1:], windowed=False), axis=-1),
            "frame_loss": magnitude_mse(wave[:, 1:], x[:, 1:], windowed=False),
        }
        ours, teachers = (mean, log_scale), (told[:, :-1, 0], told[:, :-1, 1])
        for name, (q, p) in {"kl_qp": (ours, teachers), "kl_pq": (teachers, ours)}.items():
            kl, distance = (jnp.mean(value) for value in gaussian_kl(*q, *p))
            out |= {f"{name}.kl": kl, f"{name}.reg": distance, f"{name}.total": kl + REGULARISER * distance}
        return out

    return {f"out.{name}": np.asarray(value) for name, value in answer(taught, learned).items()}
