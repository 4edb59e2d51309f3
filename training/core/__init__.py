"""The external-loss gradient core: any Keras model on any loss, an update as one compiled call."""
