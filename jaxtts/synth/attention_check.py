"""Whether attention read a sentence: every symbol, once, from the first to the last.

An autoregressive acoustic model decides frame by frame where it reads, and when it ends. It can leave words out, read
them again, stay where it is, or go on when all is said; the sound is fluent even then, but where it read tells. What is
looked at is the symbol that each frame attends to most, and how much each symbol was ever attended to. Distances are
counted in symbols that are spoken, so that spaces, punctuation, stress marks and blanks between symbols do not matter.

    skipped     no frame ever gave the symbol ATTENDED of its attention. Attention that moves on steadily gives each
                symbol it passes far more, also where it is soft (a bell over eight symbols gives 0.1) or where the
                symbol is silent; attention that jumps gives what it leaves out next to nothing, and what is never
                reached nothing. Attention spread over everything reads nothing: then all symbols are skipped, as they
                are if there are more of them than frames and no frame attends to them most.
    repeated    the symbol was read, then one at least BACK symbols further on, then it was read again, and its
                neighbour likewise in the same go. One symbol alone does not count: the strongest of several weak
                weights in a pause may be anywhere.
                Also: one symbol has more frames than `longest`, or the last BACK symbols together have them at the end.
"""

import unicodedata
from typing import NamedTuple

import numpy as np

ATTENDED = 0.05  # of a frame's attention
BACK = 3  # symbols; smaller steps back are the trembling of soft attention


class Faults(NamedTuple):
    """What went wrong with a sentence; the symbols are places in it."""

    truncated: bool = False
    skipped: tuple[int, ...] = ()
    repeated: tuple[int, ...] = ()

    @property
    def weight(self) -> tuple[bool, int]:
        """How bad it is: not having ended is worse than any number of symbols."""
        return self.truncated, len(self.skipped) + len(self.repeated)


def check(path: np.ndarray, attended: np.ndarray, spoken: np.ndarray, longest: float) -> Faults:
    """Looks at the attention of a sentence.

    Args:
        path: the symbol that each frame attends to most, int [T].
        attended: the most that any frame attends to each symbol, [S].
        spoken: which symbols make a sound, bool [S], see `is_spoken`.
        longest: frames beyond which a symbol is held too long.
    """
    places = np.flatnonzero(spoken)
    if not len(path) or not len(places):
        return Faults(skipped=tuple(places.tolist()))
    if attended.max() < min(0.5, 2 / len(attended)):  # no more than twice what a flat alignment gives
        return Faults(skipped=tuple(places.tolist()))
    unread = attended < ATTENDED
    if len(path) < len(places):
        unread |= np.bincount(path, minlength=len(spoken)) == 0
    skipped = places[unread[places]]
    rank = np.cumsum(spoken)  # how many spoken symbols there are up to each
    repeated = _read_again(path, rank, spoken) | (np.bincount(path, minlength=len(spoken)) > longest)
    elsewhere = np.flatnonzero(rank[path] <= rank[-1] - BACK)
    if len(path) - (elsewhere[-1] + 1 if len(elsewhere) else 0) > longest:
        repeated[places[-1]] = True
    return Faults(False, tuple(skipped.tolist()), tuple(np.flatnonzero(repeated).tolist()))


def _read_again(path: np.ndarray, rank: np.ndarray, spoken: np.ndarray) -> np.ndarray:
    """Which symbols are read again, bool [S]."""
    at = rank[path]
    again = np.zeros(len(path), bool)
    for place in np.unique(path[spoken[path]]):
        frames = np.flatnonzero(path == place)
        furthest = np.maximum.accumulate(at[frames[0] :])[frames - frames[0]]
        again[frames] = furthest >= rank[place] + BACK
    found = np.zeros(len(spoken), bool)
    goes = np.cumsum(spoken[path] & ~again)  # what is spoken for the first time parts one go from the next
    for go in np.unique(goes[again]):
        read = np.unique(path[again & (goes == go)])
        if len(read) > 1:
            found[read] = True
    return found


def is_spoken(symbol: str) -> bool:
    """Whether a symbol makes a sound: letters and digits do, marks, punctuation and spaces do not."""
    return any(c.isalnum() and unicodedata.category(c) not in ("Lm", "Mn") for c in symbol)
