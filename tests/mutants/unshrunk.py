"""A plugin of pytest for runs against mutants: `-p unshrunk`.

Hypothesis draws the same examples at every run, so that a verdict can be had again, remembers
nothing, and does not look for the smallest example that fails: that one fails is all there is to know.
"""

from hypothesis import Phase, settings

settings.register_profile(
    "mutants",
    database=None,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
settings.load_profile("mutants")
