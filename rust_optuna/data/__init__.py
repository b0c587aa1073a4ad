"""Films, labels, folds and metrics. Nothing here knows about models, studies or workers."""
