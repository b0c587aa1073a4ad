"""From films to scores: the frozen backbone's features, the head, one trial. Loads TensorFlow, and that late."""
