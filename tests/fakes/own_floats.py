"""Classes of a user's own that worker processes import: a modality without a plugin, and a data set."""

from torch.utils.data import Dataset
from two_floats import TwoFloats

from shala_framework.plugin import Modality


class Pair(TwoFloats):
    """Two floats as a user's own class, which learns nothing and needs no fit."""

    fit = Modality.fit


class Items(Dataset):
    """Rows as dictionaries; b is missing in every third row, alternately as None and as no key."""

    def __init__(self, x, gaps=True):
        self.x, self.gaps = x, gaps

    def __len__(self):
        return len(self.x["a"])

    def __getitem__(self, number):
        item = {name: value[number] for name, value in self.x.items()}
        if self.gaps and number % 6 == 0:
            item["b"] = None
        if self.gaps and number % 6 == 3:
            del item["b"]
        return item
