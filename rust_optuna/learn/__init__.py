"""From films to scores: the frozen backbone's features, the head, one trial. TensorFlow lives here and is loaded late."""
