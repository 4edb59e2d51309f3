"""A network learns to put points of one class near each other, from triplets of points."""

import keras
import tensorflow as tf

from vantage.training import Trainer


def main(anchors, positives, negatives, epochs=20):
    """Returns the network and its history."""
    embed = keras.Sequential([keras.Input(anchors.shape[1:]), keras.layers.Dense(32, "relu")])
    embed.add(keras.layers.Dense(2))

    def distances(inputs, training=True):
        anchor, near, far = (embed(each, training=training) for each in inputs)
        return tf.reduce_sum((anchor - near) ** 2, 1) - tf.reduce_sum((anchor - far) ** 2, 1)

    loss = lambda outputs, _: tf.reduce_mean(tf.nn.relu(outputs + 1.0))  # noqa: E731
    trainer = Trainer(distances, loss, keras.optimizers.Adam(0.01), models=[embed])
    return embed, trainer.fit((anchors, positives, negatives), epochs=epochs, batch_size=64)
