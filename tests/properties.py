"""How many examples Hypothesis tries, by profile.

`ci`, the default, draws the same examples in every run, so that a run fails for a change and not by chance. `nightly`
draws others each time, ten times as many: `HYPOTHESIS_PROFILE=nightly make test`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from hypothesis import HealthCheck, settings

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
_FACTOR = 10 if PROFILE == "nightly" else 1


def choose() -> None:
    """Load the profile; called before tests are collected."""
    settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
    settings.register_profile("nightly", deadline=None, print_blob=True, max_examples=100 * _FACTOR)
    settings.load_profile(PROFILE)


def examples(count: int, *, suppress: Sequence[HealthCheck] = ()) -> settings:
    """Decorates a property that `count` examples are enough for in the profile `ci`."""
    return settings(max_examples=count * _FACTOR, suppress_health_check=suppress)
