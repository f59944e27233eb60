"""Clusters of the shared latent compared with the classes of the rows, which the clusters have not seen.

Shapes: N rows, D latent_dim, C classes.
"""

import attrs
import torch
from torch import Tensor

from shala_framework.evaluation.intervals import Figure, share_figure

NUM_STARTS = 4


@attrs.frozen(kw_only=True)
class ClusterFigures:
    """Agreement of clusters with classes, on held-out rows.

    Attributes:
        accuracy: Share of rows in the cluster that stands for their class, under the best one-to-one assignment of
            clusters to classes.
        mutual_information: Mutual information of clusters and classes over the mean of their entropies, 0 to 1.
        rand: Adjusted Rand index: 0 by chance, 1 for equal partitions.
    """

    accuracy: Figure
    mutual_information: Figure
    rand: Figure


def measure_clusters(
    mean_ND: Tensor, held_out_ND: Tensor, classes_N: Tensor, num_classes: int, groups_N: Tensor | None
) -> ClusterFigures:
    """Cluster training latents by k-means, with as many clusters as classes, and compare held-out rows' clusters.

    Args:
        mean_ND: Posterior means of training rows.
        held_out_ND: Those of held-out rows.
        classes_N: Classes of held-out rows, -1 if unknown; at least one is known.
        num_classes: Number of classes.
        groups_N: Groups of held-out rows that are resampled together, or None.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans  # importing it takes a second
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    # In a fixed order of rows and from a fixed seed, so that equal latents have equal clusters.
    count = min(num_classes, len(mean_ND.unique(dim=0)))
    found = KMeans(count, n_init=NUM_STARTS, random_state=0).fit(mean_ND.double().numpy())
    clusters_N = torch.from_numpy(found.predict(held_out_ND.double().numpy())).long()
    known = classes_N >= 0
    truth, clusters = classes_N[known], clusters_N[known]
    counts_CC = torch.zeros(count, num_classes, dtype=torch.int64)
    counts_CC.index_put_((clusters, truth), torch.ones_like(truth), accumulate=True)
    rows, columns = linear_sum_assignment(counts_CC.numpy(), maximize=True)
    class_of = torch.full((count,), -1)
    class_of[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return ClusterFigures(
        accuracy=share_figure(
            (class_of[clusters] == truth).float()[None], None if groups_N is None else groups_N[known]
        ),
        mutual_information=Figure(
            value=float(normalized_mutual_info_score(truth.numpy(), clusters.numpy())), count=len(truth)
        ),
        rand=Figure(value=float(adjusted_rand_score(truth.numpy(), clusters.numpy())), count=len(truth)),
    )
