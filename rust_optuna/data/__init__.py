"""Films, labels, folds and metrics. Nothing here knows of models, studies or workers."""
