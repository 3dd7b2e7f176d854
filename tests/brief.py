"""A quick tier of a third of a second: where it matters that a profile is made and not that it can be believed.

Run as a script it is the ``edgevit`` command with that tier.
"""

from __future__ import annotations

from edgevit.profiles import latency
from edgevit.profiles.measure import Plan

BRIEF = latency.Tier(Plan(min_s=0.3, min_count=64, limit_s=5, warm_s=0.05, warm_cap_s=0.5))

if __name__ == "__main__":
    from edgevit.cli import main

    latency.TIERS["quick"] = BRIEF
    main()
