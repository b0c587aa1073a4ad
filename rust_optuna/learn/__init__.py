"""From films to scores: the frozen backbone's features, the head, one trial. TensorFlow is loaded at first use."""
