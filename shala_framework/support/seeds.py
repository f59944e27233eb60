"""Seeds that depend only on where they are used, so no random state needs to be stored."""

_MASK = 0xFFFFFFFFFFFFFFFF


def mix_seed(*parts: int) -> int:
    """Mix several integers into one 63-bit seed. Neighbouring inputs give unrelated seeds.

    Reference: the finaliser of SplitMix64 (Steele et al. 2014).
    """
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1
