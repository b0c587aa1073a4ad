"""Backbones that are compiled once for all tests of a process: building and compiling one takes two seconds."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from rust_optuna.config import BackboneConfiguration
from rust_optuna.learn import extraction

build, compile_ = extraction.build_backbone, extraction._compile


@functools.cache
def _model(backbone: BackboneConfiguration) -> Any:
    return build(backbone)


@functools.cache
def _function(backbone: BackboneConfiguration) -> Any:
    return compile_(_model(backbone), backbone)


def compile_once(patch: pytest.MonkeyPatch) -> None:
    """Let extractors of equal backbones share what is compiled; their weights must not be a file that changes."""
    patch.setattr(extraction, "build_backbone", _model)
    patch.setattr(extraction, "_compile", lambda model, backbone: _function(backbone))
