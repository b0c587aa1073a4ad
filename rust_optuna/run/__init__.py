"""What runs on this machine as a whole: a search, its forecast, computing features ahead of workers, and the demo."""
