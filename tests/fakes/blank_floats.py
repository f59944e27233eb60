"""A fake modality whose files may be present but blank, in a module that worker processes can import."""

from two_floats import TwoFloats


class MayBeBlank(TwoFloats):
    """TwoFloats that reads a file with the word null as blank, like a skeleton file in which nobody is tracked."""

    def read(self, sample):
        return None if sample.get(self.options.field) == b"null" else super().read(sample)
