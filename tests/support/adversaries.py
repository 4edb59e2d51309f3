"""Small players of a GAN, and what a test compares of them."""

import keras
import numpy as np
from keras import layers

from vantage.training import GAN

B, Z, S, CLASSES = 4, 3, 2, 5  # examples per batch, noise, numbers in an example, labels
DATA = np.random.default_rng(0).normal(size=(20, S)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, CLASSES, 20)


def players(seed=3, extra=lambda: []):
    keras.utils.set_random_seed(seed)
    generator = [keras.Input((Z,)), layers.Dense(5), *extra(), layers.Dense(S, "tanh")]
    discriminator = [keras.Input((S,)), layers.Dense(6, "tanh"), *extra(), layers.Dense(1)]
    return keras.Sequential(generator), keras.Sequential(discriminator)


def conditional(seed=3):
    """Players that take integer labels as a second input."""
    keras.utils.set_random_seed(seed)

    def model(first, end):
        inputs = [keras.Input((first,)), keras.Input((), dtype="int32")]
        coded = layers.Embedding(CLASSES, 4)(inputs[1])
        hidden = layers.Dense(8, "tanh")(layers.Concatenate()([inputs[0], coded]))
        return keras.Model(inputs, layers.Dense(end)(hidden))

    return model(Z, S), model(S, 1)


def optimizers():
    return keras.optimizers.Adam(0.01, beta_1=0.5), keras.optimizers.SGD(0.1)


def gan(models=None, **options):
    return GAN(*(models or players()), *optimizers(), **{"batch_size": B, **options})


def values(*models):
    """All variables: weights, BatchNorm's moments, Dropout's seeds."""
    return [variable.numpy().copy() for model in models for variable in model.variables]


def equal(before, after):
    return all(map(np.array_equal, before, after))


def unchanged(trainer):
    """What must be as it was after a refused call."""
    own = [turn.optimizer for turn in trainer._turns.values()]
    slots = [v.numpy().copy() for optimizer in own for v in optimizer.variables]
    return [*values(trainer.generator, trainer.discriminator), *slots, np.array(trainer.steps)]


def received(trainer):
    """The batches of each call, in the order of the calls; the trainer no longer trains."""
    seen = []

    def run(batch, count, trained):
        seen.append(batch)
        return {name: np.zeros(count, np.float32) for name in trainer._metrics}

    trainer._rounds.run, trainer._rounds.compiled = run, lambda count, trained: None
    return seen
