"""``python -m rust_optuna`` is ``rust-optuna``."""

from rust_optuna.cli import main

if __name__ == "__main__":
    main()
