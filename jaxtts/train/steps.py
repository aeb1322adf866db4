"""Training steps as pure functions: one net by a loss, or a generator against a discriminator.

A step whose loss or gradient is not finite changes nothing but the step counter and reports `skipped` = 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxtts.train.optim import OptimConfig
from jaxtts.train.state import Batch, Metrics, TrainState

Loss = Callable[..., tuple[jax.Array, tuple[Metrics, dict[str, Any]]]]


def init_state(params: dict[str, Any], optim: dict[str, OptimConfig], rest: dict[str, Any] | None = None) -> TrainState:
    """A fresh state: one optimiser for each net in `optim`, and rest['ema'][net] where its config asks for one."""
    rest = dict(rest or {})
    averaged = {net: jax.tree.map(jnp.copy, params[net]) for net, o in optim.items() if o.ema_decay}
    if averaged:
        rest["ema"] = averaged
    opt_state = {net: o.make().init(params[net]) for net, o in optim.items()}
    return TrainState(jnp.zeros((), jnp.int32), params, rest, opt_state)


def averaged_params(state: TrainState, net: str) -> Any:
    """The moving average of a net's parameters where one is kept, else the parameters."""
    return state.rest.get("ema", {}).get(net, state.params[net])


def supervised_step(loss: Loss, optim: OptimConfig, net: str = "model") -> Callable[..., tuple[TrainState, Metrics]]:
    """The step that minimises `loss(params, rest, batch, key) -> (scalar, (metrics, rest))` over params[net]."""
    optimizer = optim.make()
    rate = optim.rate()

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        def gradients(rest, part, key):
            def of(trained):
                return loss(state.params | {net: trained}, rest, part, key)

            (value, (metrics, rest)), grads = jax.value_and_grad(of, has_aux=True)(state.params[net])
            return (value, metrics, grads), rest

        (value, metrics, grads), rest = _over_parts(gradients, state.rest, batch, key, optim.accumulate)
        norm = optax.tree.norm(grads)
        trained, opt_state = _apply(optimizer, grads, state.opt_state[net], state.params[net])
        new = TrainState(
            state.step,
            state.params | {net: trained},
            _averaged(rest, net, trained, optim.ema_decay, state.step),
            state.opt_state | {net: opt_state},
        )
        ok = jnp.isfinite(value) & jnp.isfinite(norm)
        metrics = metrics | {"grad_norm": norm, "learning_rate": jnp.asarray(rate(state.step))}
        metrics["skipped"] = 1 - ok.astype(jnp.int32)
        return _advance(ok, new, state), metrics

    return step


def gan_step(
    generate: Callable[..., tuple[Any, jax.Array, Metrics]],
    generator_loss: Callable[..., tuple[jax.Array, Metrics]],
    discriminator_loss: Loss,
    optim: dict[str, OptimConfig],
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The step of a GAN: first the discriminator on the generator's outputs, then the generator through it.

    The generator runs forward once (with accumulation twice, or all parts would have to be kept). For steps before the
    discriminator starts take `generator_step`: a `lax.cond` in one step for both makes XLA's convolutions on CPU some
    fifty times slower.

    Args:
        generate: (params_g, rest, batch, key) -> (outputs: pytree of float arrays, other losses, metrics).
        generator_loss: (params_d, rest, batch, outputs) -> (adversarial and feature losses, metrics).
        discriminator_loss: (params_d, rest, batch, outputs) -> (loss, (metrics, rest)).
        optim: configs of 'generator' and 'discriminator'.

    Raises:
        ValueError: the two configs differ in `accumulate`.
    """
    optimizers = {net: o.make() for net, o in optim.items()}
    rate = optim["generator"].rate()
    count, other = (optim[net].accumulate for net in ("generator", "discriminator"))
    if count != other:
        raise ValueError(f"optim.*.accumulate: generator has {count}, discriminator {other}; give both the same")

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        params_g, params_d = state.params["generator"], state.params["discriminator"]

        def forward(part, key):
            def of(params):
                outputs, extra, metrics = generate(params, state.rest, part, key)
                return (outputs, extra), metrics

            return jax.vjp(of, params_g, has_aux=True)  # (outputs, extra), pull, metrics

        once = forward(batch, key) if count == 1 else None

        def judge(rest, part, key):
            (outputs, _), _, _ = once or forward(part, key)
            objective = jax.value_and_grad(discriminator_loss, has_aux=True)
            (value, (metrics, rest)), grads = objective(params_d, rest, part, outputs)
            return (value, metrics, grads), rest

        (value_d, metrics_d, grads_d), rest = _over_parts(judge, state.rest, batch, key, count)
        new_d, opt_d = _apply(optimizers["discriminator"], grads_d, state.opt_state["discriminator"], params_d)
        judges = _whole(new_d)

        def persuade(rest, part, key):
            (outputs, extra), pull, metrics = once or forward(part, key)
            objective = jax.value_and_grad(generator_loss, argnums=3, has_aux=True)
            (value, metrics_g), cotangent = objective(judges, rest, part, outputs)
            (grads,) = pull((cotangent, jnp.ones_like(extra)))
            return (value + extra, metrics | metrics_g, grads), rest

        (value_g, metrics_g, grads_g), rest = _over_parts(persuade, rest, batch, key, count)
        new_g, opt_g = _apply(optimizers["generator"], grads_g, state.opt_state["generator"], params_g)
        new = TrainState(
            state.step,
            state.params | {"generator": new_g, "discriminator": new_d},
            _averaged(rest, "generator", new_g, optim["generator"].ema_decay, state.step),
            state.opt_state | {"generator": opt_g, "discriminator": opt_d},
        )
        norms = {"generator": optax.tree.norm(grads_g), "discriminator": optax.tree.norm(grads_d)}
        ok = jnp.isfinite(value_g + value_d) & jnp.isfinite(norms["generator"] + norms["discriminator"])
        metrics = metrics_d | metrics_g | {f"grad_norm/{net}": norm for net, norm in norms.items()}
        metrics["learning_rate"] = jnp.asarray(rate(state.step))
        metrics["skipped"] = 1 - ok.astype(jnp.int32)
        return _advance(ok, new, state), metrics

    return step


def generator_step(
    generate: Callable[..., tuple[Any, jax.Array, Metrics]], optim: OptimConfig
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The step of a GAN's generator before the discriminator starts: `generate`'s own losses alone."""

    def loss(params, rest, batch, key):
        _, extra, metrics = generate(params["generator"], rest, batch, key)
        return extra, (metrics, rest)

    return supervised_step(loss, optim, "generator")


def _over_parts(
    gradients: Callable[..., tuple[Any, Any]], rest: Any, batch: Batch, key: jax.Array, count: int
) -> tuple[Any, Any]:
    """Means of `gradients(rest, part, key) -> (values, rest)` over `count` parts of a batch, one after the other.

    Part i holds the rows i, i + count, ...: each device cuts the rows it has, none changes its place.
    """
    if count == 1:
        return gradients(rest, batch, key)

    def cut(x: jax.Array) -> jax.Array:
        if not x.ndim:
            return jnp.broadcast_to(x, (count,))
        if x.shape[0] % count:
            raise ValueError(f"optim.accumulate={count}: it must divide the batch of {x.shape[0]}")
        return jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0)  # [count, B / count, ...]

    def body(carry, inputs):
        part, i = inputs
        sums, rest = carry
        values, rest = gradients(rest, part, jax.random.fold_in(key, i))
        return (jax.tree.map(jnp.add, sums, values), rest), None

    parts = jax.tree.map(cut, batch)
    shapes = jax.eval_shape(gradients, rest, jax.tree.map(lambda x: x[0], parts), key)[0]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (sums, rest), _ = jax.lax.scan(body, (zeros, rest), (parts, jnp.arange(count)))
    return jax.tree.map(lambda x: x / count, sums), rest


def _apply(optimizer: optax.GradientTransformation, grads: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
    grads = _whole(grads)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def _whole(tree: Any) -> Any:
    """The arrays, on every device of the mesh in force (`jax.set_mesh`).

    Each device takes its part of whole gradients: without this XLA lets the cut of the optimiser's state spread
    backwards into the layers, and sends activations around.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, jax.sharding.PartitionSpec())


def _averaged(rest: dict[str, Any], net: str, params: Any, decay: float, step: jax.Array) -> dict[str, Any]:
    if not decay:
        return rest
    count = step.astype(jnp.float32)
    weight = 1 - jnp.minimum(decay, (1 + count) / (10 + count))  # the first steps are forgotten sooner
    old = rest["ema"][net]
    return rest | {"ema": rest["ema"] | {net: jax.tree.map(lambda a, p: a + weight * (p - a), old, params)}}


def _advance(ok: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    kept = jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)
    return kept._replace(step=old.step + 1)
