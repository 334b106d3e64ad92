"""Metrics written down literally, by numpy alone."""

import itertools

import numpy as np
from scipy import ndimage
from sklearn.neighbors import NearestNeighbors

from moleflow_pl.scoring.bank_search import NEIGHBOURS


def literal_aupro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """Every threshold, every region, one at a time."""
    regions = []
    for scores, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [scores[labels == k] for k in range(1, count + 1)]
    normal = maps[~masks]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        overlap = np.mean([(region >= threshold).mean() for region in regions])
        points.append(((normal >= threshold).mean(), overlap))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def sorted_aupro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    """The same from one sort of all pixels, which may be many; no two scores are equal."""
    share = np.zeros(maps.shape)  # of the mean overlap that a pixel makes up
    regions = 0
    for mask, of_image in zip(masks, share, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        of_image[mask] = 1 / sizes[labels[mask]]
        regions += count
    order = np.argsort(-maps, axis=None)
    overlap = np.concatenate([[0.0], share.ravel()[order].cumsum() / regions])
    false = np.concatenate([[0.0], (~masks).ravel()[order].cumsum() / (~masks).sum()])
    end = np.searchsorted(false, limit)
    area = (np.diff(false[:end]) * (overlap[1:end] + overlap[: end - 1]) / 2).sum()
    return (area + (limit - false[end - 1]) * overlap[end - 1]) / limit


def literal_distances(latents: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Distances (n,) of one image's latents (n, C) to their soft projections on a bank (M, C)."""
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(bank))).fit(bank)
    lengths, places = search.kneighbors(latents)
    ordered = np.sort((lengths**2).ravel())
    temperature = ordered[(len(ordered) - 1) // 2]
    distances = []
    for latent, length, place in zip(latents, lengths, places, strict=True):
        weights = np.exp(-(length**2) / temperature)
        distances.append(np.linalg.norm(latent - weights @ bank[place] / weights.sum()))
    return np.array(distances)
