"""Which is fastest? Two answers, and which one may be given.

``rank`` sorts medians that were measured one after another, where their conditions allow it. ``race`` runs what is
compared in turns, so that whatever the machine does meanwhile hits all alike: only that one says what is faster.
"""

from __future__ import annotations

from edgevit.profiles.ranking.medians import rank as rank
from edgevit.profiles.ranking.race import race as race
